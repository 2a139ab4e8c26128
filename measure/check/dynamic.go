package check

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/paging"
)

// linux.dynamic: code that the kernel makes while it runs is what it makes it
// from. The slots of kprobes hold copies of instructions of approved text, those
// of optimized ones the kernel's template around them; ftrace's trampolines are
// copies of the kernel's text; the code in which CPUs start, and that which
// starts another kernel, is that of the kernel's file; code of BPF is held against
// what its compiler can emit and where that may branch. Executable memory of the
// module area that is none of these, nor a module's text, holds nothing.
//
// Proves: of probes, tracers and real mode code each byte; of BPF that its code
// uses no instruction that BPF has no use for and leaves only to starts of
// functions of approved text and to other code of BPF. Trusts: linux.text and
// modules.text for the text that was copied. It cannot tell one BPF program from
// another, nor what a program does to memory.
const dynamicName = "linux.dynamic"

func dynamicCheck() check {
	return check{name: dynamicName, collect: collectDynamic, judge: judgeDynamic, memo: true}
}

// dynamicData are the facts of linux.dynamic.
type dynamicData struct {
	Code    []dynamicCode `json:"code"` // executable memory outside of text, ascending
	Slots   []slotFact    `json:"slots,omitempty"`
	Kprobes []kprobeFact  `json:"kprobes,omitempty"` // when slots were read, which linux.text's are not
	Tracers []tracerFact  `json:"tracers,omitempty"`
	Images  []imageFact   `json:"images,omitempty"`
	// Functions are those of tables of operations, ascending.
	Functions []functionFact `json:"functions,omitempty"`
	RealMode  *realModeFact  `json:"real_mode,omitempty"`
	Kexec     []kexecFact    `json:"kexec,omitempty"`
	// Uncleared: the kernel gives out memory with what it held before.
	Uncleared bool `json:"uncleared,omitempty"`
	// Header is the size of what stands before BPF programs, and what the first
	// number there counts: pages up to 5.17, bytes since.
	Header     uint64   `json:"header,omitempty"`
	HeaderUnit uint64   `json:"header_unit,omitempty"`
	Unread     []string `json:"unread,omitempty"` // accounts that could not be read
	// Freeing is who frees code that has no account any more.
	Freeing []owner `json:"freeing,omitempty"`
}

// dynamicCode is a run of executable pages.
type dynamicCode struct {
	region
	Pack bool `json:"pack,omitempty"` // memory that BPF programs share
}

// slotFact is a page of kprobe slots.
type slotFact struct {
	At        address `json:"at"`
	Size      uint64  `json:"size"` // of a slot, bytes
	Optimized bool    `json:"optimized,omitempty"`
}

// tracerFact is a trampoline of ftrace, in use or not.
type tracerFact struct {
	At   address `json:"at"`
	Size uint64  `json:"size"`
	Ops  address `json:"ops"`
	Func address `json:"func"`
}

// imageFact is code of BPF that has a name.
type imageFact struct {
	Name       string  `json:"name"`
	Start      address `json:"start"`
	End        address `json:"end"`
	Trampoline bool    `json:"trampoline,omitempty"` // or a dispatcher: not a program
}

// realModeFact is where the copy of real mode code lies.
type realModeFact struct {
	At   address  `json:"at"`
	Phys mem.Phys `json:"phys"`
}

// Bounds of what a target may make a scan read here.
const (
	maxDynamic   = 64 << 20 // bytes of executable memory outside of text
	maxImages    = 1 << 16
	maxImageName = 128
)

var (
	errDynamicBytes = fmt.Errorf("over %d bytes of executable memory outside of text", maxDynamic)
	errChanging     = errors.New("the kernel kept changing its code while it was read")
)

// collectDynamic reads accounts, code, and the accounts again: code belongs to
// them only if they are the same. As long as there is code without an account, or
// they change, it reads all of it again.
func collectDynamic(c *collector) (any, measure.Coverage, error) {
	var g grace
	for {
		began := time.Now()
		before, err := c.dynamicAccounts()
		if err != nil {
			return nil, measure.Coverage{}, err
		}
		data := *before
		if err := c.dynamicCode(&data); err != nil {
			return nil, measure.Coverage{}, err
		}
		after, err := c.dynamicAccounts()
		if err != nil {
			return nil, measure.Coverage{}, err
		}
		settled := before.same(after) && !c.claimed(&data)
		for i := range data.Code {
			same, err := c.refresh(&data.Code[i].region)
			if err != nil {
				return nil, measure.Coverage{}, err
			}
			settled = settled && same
		}
		if settled && !c.unaccounted(&data) {
			return data, data.coverage(), nil
		}
		if !c.wait(&g) {
			if settled && !c.still && !g.passed() && len(data.Freeing) == 0 {
				return nil, measure.Coverage{}, errors.Join(errStarved, c.ctx.Err())
			}
			if settled {
				return data, data.coverage(), c.ctx.Err()
			}
			return nil, measure.Coverage{}, errors.Join(errChanging, c.ctx.Err())
		}
		c.patience -= time.Since(began)
	}
}

func (d *dynamicData) coverage() (out measure.Coverage) {
	for i := range d.Code {
		out.Bytes += d.Code[i].coverage().Bytes
		out.Objects++
	}
	return out
}

// claimed reports whether some of the code is the text of a module by now: one that
// came on the list after that was read, and before the code was.
func (c *collector) claimed(d *dynamicData) bool {
	text, _ := c.moduleText() // a list that cannot be read claims less
	size := func(ranges []mappedRange) (n uint64) {
		for _, r := range ranges {
			n += r.Size
		}
		return n
	}
	return size(unownedRanges(d.ranges(), text)) != size(d.ranges())
}

func (d *dynamicData) ranges() (out []mappedRange) {
	for i := range d.Code {
		r := &d.Code[i]
		out = append(out, mappedRange{Start: r.Start, Size: uint64(r.pages()) * mem.PageSize})
	}
	return out
}

// unaccounted reports whether there is code that no account has.
func (c *collector) unaccounted(d *dynamicData) bool {
	ranges := d.ranges()
	owners, errs := c.owners()
	owners = append(owners, c.trapped(unownedRanges(ranges, owners))...)
	owners = append(owners, c.unnamed(unownedRanges(ranges, owners))...)
	left := unownedRanges(ranges, owners)
	var err error
	if d.Freeing, err = c.freeing(left); err != nil {
		d.Unread = append(d.Unread, fmt.Sprintf("who frees code: %v", err))
	}
	return len(errs) == 0 && len(left) > 0
}

func (d *dynamicData) same(o *dynamicData) bool {
	return slices.Equal(d.Slots, o.Slots) && reflect.DeepEqual(d.Kprobes, o.Kprobes) && slices.Equal(d.Tracers, o.Tracers) && slices.Equal(d.Images, o.Images) &&
		slices.Equal(d.Functions, o.Functions) && slices.Equal(d.Kexec, o.Kexec)
}

// dynamicAccounts reads who has code.
func (c *collector) dynamicAccounts() (*dynamicData, error) {
	d := &dynamicData{}
	for _, part := range []struct {
		name string
		read func(*dynamicData) error
	}{
		{"kprobe slots", c.slotPages}, {"kprobes", c.probed}, {"ftrace trampolines", c.tracers}, {"BPF", c.bpfNames},
		{"BPF's operations", c.structOps}, {"real mode code", c.realModeCode}, {"kexec", c.kexecPages}, {"init_on_alloc", c.uncleared},
	} {
		if err := part.read(d); err != nil {
			d.Unread = append(d.Unread, fmt.Sprintf("%s: %v", part.name, err))
		}
	}
	return d, c.ctx.Err()
}

// dynamicCode reads all executable memory of the module area that is no text of
// a module, real mode code, and what starts another kernel.
func (c *collector) dynamicCode(d *dynamicData) error {
	packs, err := c.bpfPacks()
	if err != nil {
		d.Unread = append(d.Unread, err.Error())
	}
	text, err := c.moduleText()
	if err != nil {
		d.Unread = append(d.Unread, err.Error())
	}
	kernels, err := c.ownText()
	if err != nil {
		return err
	}
	text = append(text, kernels...)
	room := uint64(maxDynamic)
	read := func(r mappedRange, pack bool) error {
		if r.Size > room {
			return errDynamicBytes
		}
		room -= r.Size
		code, err := c.textRegion("dynamic code", mem.Virt(r.Start), mem.Virt(r.Start)+mem.Virt(r.Size))
		d.Code = append(d.Code, dynamicCode{code, pack})
		return err
	}
	for _, r := range unownedRanges(c.executable(kernel.ModuleArea()), text) {
		for _, part := range splitAt(r, packs) {
			pack := slices.ContainsFunc(packs, func(o owner) bool { return part.Start >= o.Start && part.Start < o.Start+address(o.Size) })
			if err := read(part, pack); err != nil {
				return err
			}
		}
	}
	if d.RealMode != nil {
		at := mem.Virt(d.RealMode.At)
		for _, r := range c.executable(at, at+maxOwned) {
			if err := read(r, false); err != nil {
				return err
			}
		}
	}
	return c.kexecCode(d, read)
}

// executable lists what is executable from one address to before another.
func (c *collector) executable(from, to mem.Virt) []mappedRange {
	w := tableWalk{collector: c, open: make(map[*[]mappedRange]mem.Virt)}
	_ = c.profile.Space.Walk(from, to-1, func(m paging.Mapping) bool {
		if m.Flags&paging.NoExecute == 0 {
			w.add(&w.data.Executable, m)
		}
		return w.err == nil && c.ctx.Err() == nil
	}, nil) // tables that are lost are linux.pagetables' to tell
	return w.data.Executable
}

// splitAt cuts a range where owners begin and end.
func splitAt(r mappedRange, owners []owner) []mappedRange {
	cuts := []address{r.Start, r.Start + address(r.Size)}
	for _, o := range owners {
		for _, at := range []address{o.Start, o.Start + address(o.Size)} {
			if at > r.Start && at < r.Start+address(r.Size) {
				cuts = append(cuts, at)
			}
		}
	}
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	var out []mappedRange
	for i := 1; i < len(cuts); i++ {
		out = append(out, part(r, cuts[i-1], cuts[i]))
	}
	return out
}
