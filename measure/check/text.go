package check

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// linux.text: every byte of the kernel's text is what its file says, or was
// changed by the kernel itself at a place and to a value that the file allows.
//
// Proves: that the kernel's code is that of the image, with the alternatives,
// static calls, tracing and probes that this kernel's own tables name. What the
// jumps of tracing and probes lead to is for linux.dynamic; what live patches put
// in a function's place is the start of another of approved text. Trusts: the image. The target's memory is believed only to choose among encodings
// that the image allows: which function a static call or pv_ops has (it must be
// one of expected text), where probes are registered. An attacker can still
// make a static call or a paravirt operation call another function of expected
// text by changing its pointer too, switch a static branch, or register a
// probe or tracer: those are reported as notes.
const textName = "linux.text"

func textCheck() check {
	return check{name: textName, bulk: 5, collect: collectText, judge: judgeText, memo: true}
}

// textData are the facts of linux.text.
type textData struct {
	Text     region       `json:"text"` // [_text, _etext)
	Patching patchingData `json:"patching"`
	// Arrived are the texts of modules that came after the list of modules was read, if
	// a static call leads to where none of that list is.
	Arrived []owner `json:"arrived,omitempty"`
	CPU     string  `json:"cpu,omitempty"` // vendor, family, model and stepping, which decide how text is patched
}

// textRetries is how often text is read that changes meanwhile.
const textRetries = 12

// collectText reads the text, and then again between two readings of what the kernel
// patches by: they belong together only if nothing was different. What was is all that
// is taken anew: a kernel that is traced all the time rests for as long as it takes to
// compare text, and not for as long as to read and hash it.
func collectText(c *collector) (any, measure.Coverage, error) {
	from, ok1 := c.profile.Symbol("_text")
	to, ok2 := c.profile.Symbol("_etext")
	if !ok1 || !ok2 {
		return nil, measure.Coverage{}, fmt.Errorf("%w: no _text or _etext", kernel.ErrNoSymbols)
	}
	text, err := c.textRegion("text", from, to)
	if err != nil {
		return nil, measure.Coverage{}, err
	}
	for range textRetries {
		before := c.patching()
		same, err := c.refresh(&text)
		if err != nil {
			return nil, measure.Coverage{}, err
		}
		if after := c.patching(); same && reflect.DeepEqual(before, after) {
			return textData{Text: text, Patching: after, Arrived: c.arrivedText(after.StaticCalls), CPU: c.cpuModel()}, text.coverage(), nil
		}
	}
	return nil, measure.Coverage{}, errChanging
}

// arrivedText lists the texts of modules that came since the list was read, if some
// of the static calls lead into the area of modules and into none that was there.
func (c *collector) arrivedText(calls []staticCallFact) (out []owner) {
	inside := func(m *kernel.LoadedModule, at mem.Virt) bool {
		a, ok := m.Area(kernel.AreaText)
		return ok && at >= a.Start && at < a.End()
	}
	from, to := kernel.ModuleArea()
	strange := slices.ContainsFunc(calls, func(s staticCallFact) bool {
		at := mem.Virt(s.Func)
		return !s.Gone && at >= from && at < to && !slices.ContainsFunc(c.modules, func(m kernel.LoadedModule) bool { return inside(&m, at) })
	})
	if !strange {
		return nil
	}
	list, _ := c.profile.Modules() // one that cannot be read has none
	for i := range list {
		m := &list[i]
		if a, ok := m.Area(kernel.AreaText); ok && !slices.ContainsFunc(c.modules, func(then kernel.LoadedModule) bool { return inside(&then, a.Start) }) {
			out = append(out, owner{m.Name, address(a.Start), a.Size})
		}
	}
	return out
}

// between reads the pages between two symbols.
func (c *collector) between(name, start, end string) (region, error) {
	from, ok1 := c.profile.Symbol(start)
	to, ok2 := c.profile.Symbol(end)
	if !ok1 || !ok2 {
		return region{}, fmt.Errorf("%w: no %s or %s", kernel.ErrNoSymbols, start, end)
	}
	return c.region(name, from, to)
}

// coverage counts the pages that could be read.
func (r *region) coverage() measure.Coverage {
	var cov measure.Coverage
	for i := range r.pages() {
		if _, ok := r.digest(i); ok {
			cov.Bytes += 4096
			cov.Objects++
		}
	}
	cov.Total = int64(r.pages())
	return cov
}

func judgeText(j *judging, raw json.RawMessage, out *measure.Check) error {
	data, err := j.textData(raw)
	if err != nil {
		return err
	}
	if j.image == nil && len(j.refs.Portable) > 0 {
		reference, err := j.reference()
		if err != nil {
			return err
		}
		return j.comparePortable(reference.Text, &data.Text, out)
	}
	want, err := j.expected()
	if err != nil {
		return err
	}
	if err := j.livepatched(&data.Patching, out); err != nil {
		return err
	}
	return j.explain(want.env.Kernel(), &data.Text, out, nil)
}

// read returns memory that lies in a region: nil if bytes are asked for, not ok
// if it was not observed.
func (j *judging) read(r *region, at mem.Virt, n int) (out []byte, ok bool) {
	whole := true
	for page := int(at-mem.Virt(r.Start)) / mem.PageSize; n > 0; page++ {
		if at < mem.Virt(r.Start) || page >= r.pages() {
			return nil, false
		}
		d, ok := r.digest(page)
		if !ok {
			return nil, false
		}
		from := int(at - r.page(page))
		take := min(n, mem.PageSize-from)
		if b, ok := j.page(d); ok {
			out = append(out, b[from:from+take]...)
		} else {
			whole = false
		}
		at, n = at+mem.Virt(take), n-take
	}
	if !whole {
		return nil, true
	}
	return out, true
}

// cpuModel reads what the kernel knows of its first CPU: struct cpuinfo_x86.
func (c *collector) cpuModel() string {
	at, ok := c.profile.Symbol("boot_cpu_data")
	if !ok {
		return ""
	}
	numbers := make([]byte, 0, 3)
	for _, member := range []string{"x86", "x86_model", "x86_stepping"} {
		off, err := c.profile.Types.Offset("cpuinfo_x86", member)
		var b [1]byte
		if err != nil || c.space.Read(b[:], at+mem.Virt(off)) != nil {
			return ""
		}
		numbers = append(numbers, b[0])
	}
	off, err := c.profile.Types.Offset("cpuinfo_x86", "x86_vendor_id")
	if err != nil {
		return ""
	}
	vendor, err := c.space.CString(at+mem.Virt(off), 16)
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%s %d/%d/%d", vendor, numbers[0], numbers[1], numbers[2])
}
