package check

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

func judgeDynamic(j *judging, raw json.RawMessage, out *measure.Check) error {
	var data dynamicData
	if err := decode(raw, &data); err != nil {
		return err
	}
	want, err := j.expected()
	if err != nil {
		return err
	}
	text, err := j.approvedText()
	if err != nil {
		return err
	}
	if data.RealMode == nil && len(data.Code) == 0 {
		return errNotObserved
	}
	if !slices.IsSortedFunc(data.Functions, functionFact.compare) {
		return errors.New("observation is malformed: functions of tables of operations in no order")
	}
	env := want.env.ForMadeCode(probesOf(data.Kprobes), data.Uncleared)
	d := dynamicJudge{judging: j, env: env, data: &data, text: text, out: out}
	for i := range data.Code {
		if err := data.Code[i].validate(); err != nil {
			return err
		}
		d.code(&data.Code[i])
	}
	d.branches()
	d.find(env.ExplainOwners(data.slotPages()))
	out.Reason = strings.Join(slices.Concat(d.summary(), data.Unread), "; ")
	if len(data.Unread) > 0 {
		d.problems = append(d.problems, data.Unread...)
	}
	if len(data.Freeing) > 0 {
		d.problems = append(d.problems, "code that the kernel is making, or about to free, is not compared: "+freedOf(data.Freeing))
	}
	if n := len(out.Findings); n > 0 && slices.ContainsFunc(data.Code, func(c dynamicCode) bool { return len(c.Held) > 0 }) {
		out.Findings = nil
		d.problems = append(d.problems, fmt.Sprintf("%v: %d differences, which may be half of a patch", errPatching, n))
	}
	if len(d.problems) > 0 {
		return errors.New(strings.Join(d.problems, "; "))
	}
	return nil
}

// approvedText reads the text of the kernel and its modules as linux.text and
// modules.text observed it, which judge it.
func (j *judging) approvedText() (kernel.TextReader, error) {
	var own textData
	if item := j.obs.Item(textName); item == nil || item.Data == nil {
		return nil, errors.New("the kernel's text was not observed")
	} else if err := decode(item.Data, &own); err != nil {
		return nil, err
	}
	regions := []region{own.Text}
	var modules moduleTextData
	if item := j.obs.Item(moduleTextName); item != nil && item.Data != nil {
		if err := decode(item.Data, &modules); err != nil {
			return nil, err
		}
		regions = append(regions, modules.Modules...)
	}
	for i := range regions {
		if err := regions[i].validate(); err != nil {
			return nil, err
		}
	}
	return func(at mem.Virt, n int) ([]byte, bool) {
		for i := range regions {
			r := &regions[i]
			if at >= mem.Virt(r.Start) && at < r.page(r.pages()) {
				return j.read(r, at, n)
			}
		}
		return nil, false
	}, nil
}

// dynamicJudge judges the code that the kernel made.
type dynamicJudge struct {
	*judging
	env  *kernel.Expected
	data *dynamicData
	text kernel.TextReader
	out  *measure.Check

	images   []*kernel.JIT // of BPF, judged together
	problems []string      // what could not be judged

	slots, stale, tracers, kexecs int
}

// code judges a run of executable pages: all of it is somebody's.
func (d *dynamicJudge) code(c *dynamicCode) {
	if rm := d.data.RealMode; rm != nil && c.Start >= rm.At && c.Start < rm.At+maxOwned {
		d.realMode(c)
		return
	}
	if d.kexec(c) {
		return
	}
	for at := c.Start; at < address(c.page(c.pages())); {
		end := address(c.page(c.pages()))
		if rest, ok := d.freed(at); ok {
			at = rest
			continue
		}
		if rest, ok := d.owned(c, at); ok {
			at = rest
			continue
		}
		if c.Pack {
			d.pack(c, at, end)
			return
		}
		// Nobody's, up to where somebody's begins.
		next := end
		for _, begin := range d.begins() {
			if begin &^= mem.PageSize - 1; begin > at && begin < next {
				next = begin
			}
		}
		d.unnamed(c, at, next)
		at = next
	}
}

// freed tells up to where memory at an address is about to be freed.
func (d *dynamicJudge) freed(at address) (end address, ok bool) {
	for _, o := range d.data.Freeing {
		if at >= o.Start && uint64(at-o.Start) < o.Size {
			return o.Start + address(o.Size), true
		}
	}
	return 0, false
}

func (s slotFact) page() kernel.SlotPage {
	return kernel.SlotPage{Start: mem.Virt(s.At), Size: s.Size, Optimized: s.Optimized}
}

func (d *dynamicData) slotPages() []kernel.SlotPage {
	var out []kernel.SlotPage
	for _, s := range d.Slots {
		out = append(out, s.page())
	}
	return out
}

// begins lists where code with an account begins.
func (d *dynamicJudge) begins() []address {
	var out []address
	for _, o := range d.data.Freeing {
		out = append(out, o.Start)
	}
	for _, s := range d.data.Slots {
		out = append(out, s.At)
	}
	for _, t := range d.data.Tracers {
		out = append(out, t.At)
	}
	for _, i := range d.data.Images {
		if i.Trampoline {
			out = append(out, i.Start)
		}
	}
	return out
}

// owned judges what has an account at an address and returns where it ends.
func (d *dynamicJudge) owned(c *dynamicCode, at address) (address, bool) {
	for _, s := range d.data.Slots {
		if s.At == at {
			if code, ok := d.bytes(c, at, mem.PageSize); ok {
				found, stale := d.env.ExplainSlots(s.page(), code, d.text)
				d.find(found)
				d.slots++
				d.stale += stale
			}
			return at + mem.PageSize, true
		}
	}
	for _, t := range d.data.Tracers {
		if t.At == at && t.Size <= maxOwned {
			pages := (t.Size + mem.PageSize - 1) &^ (mem.PageSize - 1)
			if code, ok := d.bytes(c, at, int(pages)); ok {
				d.find(d.env.ExplainTrampoline(kernel.Trampoline{Start: mem.Virt(at), Size: t.Size, Ops: mem.Virt(t.Ops), Func: mem.Virt(t.Func)}, code,
					func(at mem.Virt, n int) []byte { b, _ := d.text(at, n); return b }))
				d.tracers++
			}
			return at + address(pages), true
		}
	}
	for _, i := range d.data.Images {
		if i.Trampoline && !c.Pack && i.Start&^(mem.PageSize-1) == at {
			end := (i.End + mem.PageSize - 1) &^ (mem.PageSize - 1)
			d.image(c, i.Name, at, end)
			return end, true
		}
	}
	return 0, false
}

// bytes reads code. What is asked for is judged when it is there.
func (d *dynamicJudge) bytes(c *dynamicCode, at address, n int) ([]byte, bool) {
	code, ok := d.read(&c.region, mem.Virt(at), n)
	if !ok {
		d.problems = append(d.problems, fmt.Sprintf("the code at %v could not be read", at))
	}
	return code, code != nil
}

// realMode judges the code in which CPUs start.
func (d *dynamicJudge) realMode(c *dynamicCode) {
	code, ok := d.bytes(c, c.Start, c.pages()*mem.PageSize)
	if !ok {
		return
	}
	rm := d.data.RealMode
	found, err := d.env.ExplainRealMode(mem.Virt(rm.At), rm.Phys, int(c.Start-rm.At), code)
	if err != nil {
		d.problems = append(d.problems, err.Error())
	}
	d.find(found)
}

func (d *dynamicJudge) find(list []kernel.Difference) {
	d.out.Findings = append(d.out.Findings, d.outside(list)...)
}

// outside are findings or notes about memory that no symbol covers.
func (d *dynamicJudge) outside(list []kernel.Difference) []measure.Finding {
	out := d.differences(list)
	for i, f := range list {
		if !d.env.Kernel().Contains(f.Addr) {
			out[i].Symbol = ""
		}
	}
	return out
}

func (d *dynamicJudge) summary() []string {
	var out []string
	if d.slots > 0 {
		out = append(out, fmt.Sprintf("%d pages of kprobe slots", d.slots))
	}
	if d.stale > 0 {
		out = append(out, fmt.Sprintf("%d slots of probes that are gone", d.stale))
	}
	if d.tracers > 0 {
		out = append(out, fmt.Sprintf("%d trampolines of ftrace", d.tracers))
	}
	if d.kexecs > 0 {
		out = append(out, fmt.Sprintf("%d pages of kexec", d.kexecs))
	}
	if len(d.images) > 0 {
		out = append(out, fmt.Sprintf("%d pieces of BPF's code, held against what its compiler emits", len(d.images)))
	}
	if d.data.Uncleared {
		out = append(out, "the kernel does not clear memory (init_on_alloc is off): what is behind code, where nothing leads, is not judged")
	}
	return out
}
