package check

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// kexecFact is the page from which a loaded kernel will be started.
type kexecFact struct {
	At    address  `json:"at"`
	Phys  mem.Phys `json:"phys"`
	Crash bool     `json:"crash,omitempty"` // the one for when this kernel has crashed
}

// kexecPages are the pages that kexec starts the loaded kernels from: one that a
// reboot goes to and one for a crash (kernel/kexec_core.c, kexec_image and
// kexec_crash_image). They can be executed from 6.14 on, which keeps the code apart.
func (c *collector) kexecPages(d *dynamicData) error {
	if _, ok := c.profile.Symbol("__relocate_kernel_start"); !ok {
		return nil
	}
	for _, image := range []struct {
		name  string
		crash bool
	}{{"kexec_image", false}, {"kexec_crash_image", true}} {
		variable, ok := c.profile.Symbol(image.name)
		if !ok {
			continue
		}
		k, err := c.kexecPage(variable)
		if err != nil {
			return fmt.Errorf("%s: %w", image.name, err)
		}
		if k != nil {
			k.Crash = image.crash
			d.Kexec = append(d.Kexec, *k)
		}
	}
	return nil
}

// kexecAttempts is how often the account of a loaded kernel is read that does not hold
// still, or that leads nowhere.
const kexecAttempts = 3

// kexecPage follows one of the variables, and is nil if no kernel is loaded. The kernel
// changes the variable before it frees what it led to, and after it has filled what it
// leads to (kernel/kexec_file.c, kexec_file_load, and kernel/kexec.c, do_kexec_load):
// who reads it once more is not led there again.
func (c *collector) kexecPage(variable mem.Virt) (k *kexecFact, err error) {
	field, err := c.profile.Types.Offset("kimage", "control_code_page")
	if err != nil {
		return nil, err
	}
	for range kexecAttempts {
		var image, now uint64
		if image, err = c.space.U64(variable); image == 0 || err != nil {
			return nil, err
		}
		k, err = c.kexecPageOf(mem.Virt(image) + mem.Virt(field))
		if err != nil {
			continue
		}
		if now, err = c.space.U64(variable); now == image || err != nil {
			return k, err
		}
		err = errKexecMoved
	}
	return nil, err
}

// kexecPageOf returns the page to whose descriptor a pointer leads.
func (c *collector) kexecPageOf(pointer mem.Virt) (*kexecFact, error) {
	descriptor, err := c.space.U64(pointer)
	if err != nil {
		return nil, err
	}
	page, phys, err := c.pageOf(descriptor)
	return &kexecFact{At: address(page), Phys: phys}, err
}

var errKexecMoved = errors.New("another kernel was loaded each time that it was read")

var errNoPage = errors.New("is no descriptor of a page")

// pageOf returns where the page of a descriptor (struct page) is in the direct map.
func (c *collector) pageOf(descriptor uint64) (mem.Virt, mem.Phys, error) {
	var bases [2]uint64
	for i, name := range []string{"vmemmap_base", "page_offset_base"} {
		at, ok := c.profile.Symbol(name)
		if !ok {
			return 0, 0, fmt.Errorf("%w: no %s", kernel.ErrNoSymbols, name)
		}
		var err error
		if bases[i], err = c.space.U64(at); err != nil {
			return 0, 0, err
		}
	}
	size, err := c.profile.Types.Size("page")
	if err != nil {
		return 0, 0, err
	}
	offset := descriptor - bases[0]
	if descriptor < bases[0] || size == 0 || offset%size != 0 || offset/size >= 1<<40 {
		return 0, 0, fmt.Errorf("%#x %w", descriptor, errNoPage)
	}
	phys := mem.Phys(offset / size * mem.PageSize)
	page := mem.Virt(bases[1]) + mem.Virt(phys)
	// The descriptor is the target's word: one far behind the last leads out of the
	// direct map, into memory where others have their code.
	if at, err := c.space.Phys(page); err != nil || at != phys {
		return 0, 0, fmt.Errorf("%#x %w", descriptor, errNoPage)
	}
	return page, phys, nil
}

// kexecCode reads those of the pages that can be executed.
func (c *collector) kexecCode(d *dynamicData, read func(mappedRange, bool) error) error {
	for _, k := range d.Kexec {
		at := mem.Virt(k.At)
		if len(c.executable(at, at+mem.PageSize)) == 0 {
			continue
		}
		if err := read(mappedRange{Start: k.At, Size: mem.PageSize}, false); err != nil {
			return err
		}
	}
	return nil
}

// kexec judges code that starts a loaded kernel: a page by itself, as it is read. One
// that only begins a run of pages accounts for none of them. What is behind the code
// the kernel clears with all memory that it gives out, but for what was set aside for
// a crash.
func (d *dynamicJudge) kexec(c *dynamicCode) bool {
	if c.Pack || c.pages() != 1 {
		return false
	}
	for _, k := range d.data.Kexec {
		if k.At != c.Start {
			continue
		}
		code, ok := d.bytes(c, c.Start, mem.PageSize)
		if !ok {
			return true
		}
		found, behind, err := d.env.ExplainKexec(mem.Virt(k.At), k.Phys, code)
		if err != nil {
			d.problems = append(d.problems, err.Error())
		}
		d.find(found)
		d.kexecs++
		behind = bytes.TrimLeft(behind, "\x00")
		at := k.At + address(len(code)-len(behind))
		switch {
		case len(behind) == 0 || d.data.Uncleared:
		case k.Crash:
			d.out.Notes = append(d.out.Notes, measure.Finding{Address: at.String(), Observed: fmt.Sprintf("%d bytes", len(behind)),
				Explanation: "memory set aside for a crash is not cleared: what is behind the code that starts the crash kernel is not compared"})
		default:
			d.odd(at, behind, "there is something behind the code that starts the next kernel (kexec)")
		}
		return true
	}
	return false
}
