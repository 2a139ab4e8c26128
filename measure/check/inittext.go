package check

import (
	"encoding/json"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// linux.init: the memory of the text that runs at boot only was given back: it
// holds that text no more (free_initmem, which overwrites it).
//
// Proves: that none of this code, which assumes that nobody attacks it, is left
// where it was. That the memory is not executable there is part of
// linux.pagetables. Trusts: nothing but the file. It cannot see copies elsewhere.
const initName = "linux.init"

func initCheck() check {
	return check{name: initName, collect: collectInit, judge: judgeInit, memo: true}
}

// initData are the facts of linux.init.
type initData struct {
	Text region `json:"text"` // [_sinittext, _einittext)
}

// collectInit reads what is in the memory now. With page-table isolation it is
// mapped no more where it was; it lies behind the kernel's first page as before.
func collectInit(c *collector) (any, measure.Coverage, error) {
	from, ok1 := c.profile.Symbol("_sinittext")
	to, ok2 := c.profile.Symbol("_einittext")
	if !ok1 || !ok2 || from < c.profile.Base {
		return nil, measure.Coverage{}, fmt.Errorf("%w: no _sinittext or _einittext", kernel.ErrNoSymbols)
	}
	text, err := c.readRegion("init text", from, to, behindImage{c})
	return initData{text}, text.coverage(), err
}

// behindImage is what lies behind the kernel's first page, mapped or not.
type behindImage struct{ *collector }

func (b behindImage) phys(at mem.Virt) mem.Phys { return b.profile.Phys + mem.Phys(at-b.profile.Base) }

// Read implements [source].
func (b behindImage) Read(p []byte, at mem.Virt) error {
	return b.space.Memory().ReadPhys(p, b.phys(at))
}

// Equal implements [source].
func (b behindImage) Equal(p []byte, at mem.Virt) (bool, error) {
	return mem.Equal(b.space.Memory(), p, b.phys(at))
}

func judgeInit(j *judging, raw json.RawMessage, out *measure.Check) error {
	var data initData
	if err := decode(raw, &data); err != nil {
		return err
	}
	want, err := j.expected()
	if err != nil {
		return err
	}
	if err := data.Text.validate(); err != nil {
		return err
	}
	start, text, err := want.env.InitText()
	if err != nil {
		return err
	}
	r := &data.Text
	if first := start &^ (mem.PageSize - 1); mem.Virt(r.Start) != first || r.page(r.pages()) < start+mem.Virt(len(text)) {
		return fmt.Errorf("the scan read %d pages at %v, the text that runs at boot only is %d bytes at %v", r.pages(), r.Start, len(text), start)
	}
	for i := range r.pages() {
		d, ok := r.digest(i)
		if !ok {
			return fmt.Errorf("the page at %v could not be read", r.page(i))
		}
		key := j.pageKey(initName, d, []byte(r.page(i).String()))
		if j.accepted(key) {
			continue
		}
		page, ok := j.page(d)
		if !ok {
			continue // asked for
		}
		if same, of := alike(page, r.page(i), start, text); of >= 64 && same > of/2 {
			out.Findings = append(out.Findings, measure.Finding{Address: r.page(i).String(), Observed: fmt.Sprintf("%d of %d bytes are its", same, of),
				Explanation: "memory of text that runs at boot only was not given back: it still holds the text"})
			continue
		}
		j.accept(key)
	}
	return nil
}

// alike counts the bytes of a page that are those of a text, and how many of the
// text's it could have. Filling counts for nothing: INT3 is what the memory is
// overwritten with, and zeros are what new owners begin with.
func alike(page []byte, at, start mem.Virt, text []byte) (same, of int) {
	for i, b := range page {
		off := int64(at-start) + int64(i)
		if off < 0 || off >= int64(len(text)) || text[off] == 0xcc || text[off] == 0 {
			continue
		}
		of++
		if text[off] == b {
			same++
		}
	}
	return same, of
}
