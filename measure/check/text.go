package check

import (
	"encoding/json"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
)

// linux.text: every byte of the kernel's text is what its file says, or was
// changed by the kernel itself at a place and to a value that the file allows.
//
// Proves: that the kernel's code is that of the image, with the alternatives,
// static calls, tracing and probes that this kernel's own tables name. Trusts:
// the image. The target's memory is believed only to choose among encodings
// that the image allows: which function a static call or pv_ops has (it must be
// one of expected text), where probes are registered. An attacker can still
// make a static call or a paravirt operation call another function of expected
// text by changing its pointer too, switch a static branch, or register a
// probe or tracer: those are reported as notes.
const textName = "linux.text"

func textCheck() check {
	return check{name: textName, collect: collectText, judge: judgeText}
}

// textData are the facts of linux.text.
type textData struct {
	Text     region       `json:"text"` // [_text, _etext)
	Patching patchingData `json:"patching"`
}

func collectText(c *collector) (any, measure.Coverage, error) {
	text, err := c.between("text", "_text", "_etext")
	if err != nil {
		return nil, measure.Coverage{}, err
	}
	data := textData{Text: text, Patching: c.patching()}
	return data, text.coverage(), nil
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
	var data textData
	if err := decode(raw, &data); err != nil {
		return err
	}
	want, err := j.expected()
	if err != nil {
		return err
	}
	return j.explain(want.env.Kernel(), &data.Text, out)
}
