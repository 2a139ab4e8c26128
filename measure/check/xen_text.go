package check

import (
	"encoding/json"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/kernel/xen"
)

// xen.text: every byte of Xen's text is what its file says, or was changed by
// Xen itself at an alternative to what the file has for it.
//
// Proves: that the hypervisor's code is that of the image. An alternative is
// applied everywhere or nowhere, and calls that became direct go to one function
// for each pointer. Trusts: the image. An attacker can still leave out an
// alternative (a mitigation, say) at every place at once, or lead all direct
// calls of one pointer to another function of the image. Live patches are
// findings. It cannot see code outside of the image: that none is executable is
// for xen.pagetables.
const xenTextName = "xen.text"

func xenTextCheck() check {
	return check{name: xenTextName, collect: collectXenText, judge: judgeXenText}
}

func collectXenText(c *collector) (any, measure.Coverage, error) {
	r, err := c.region("text", c.xen.Bounds.Text, c.xen.Bounds.TextEnd)
	if err != nil {
		return nil, measure.Coverage{}, err
	}
	return r, r.coverage(), nil
}

func judgeXenText(j *judging, raw json.RawMessage, out *measure.Check) error {
	var r region
	if err := decode(raw, &r); err != nil {
		return err
	}
	img, err := j.xenImage()
	if err != nil {
		return err
	}
	bounds := img.Bounds()
	text, err := j.xenBytes(&r, bounds.Text, bounds.TextEnd)
	if err != nil || text == nil {
		return err
	}
	x, err := img.Explain(text)
	if err != nil {
		return err
	}
	out.Findings = append(out.Findings, xenDifferences(img, x.Findings)...)
	out.Reason = fmt.Sprintf("%d bytes at %d alternatives differ from the file, as Xen changes them", x.Changed, x.Sites)
	return nil
}

// xenDifferences turns runs of bytes into findings.
func xenDifferences(img *xen.Image, list []kernel.Difference) []measure.Finding {
	var out []measure.Finding
	for _, d := range list {
		out = append(out, measure.Finding{Address: d.Addr.String(), Symbol: img.Name(d.Addr), Observed: fmt.Sprintf("%x", d.Observed),
			Expected: fmt.Sprintf("%x", d.Expected), Explanation: d.Explanation})
	}
	return out
}
