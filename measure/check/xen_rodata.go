package check

import (
	"encoding/binary"
	"encoding/json"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/kernel/xen"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// xen.rodata: every byte of Xen's read-only data is what its file says, but for
// the exception tables, which are xen.tables', and what is set at boot; pointers
// to code in that lead to the starts of functions. The symbols by which the scan
// found its way are the image's.
//
// Proves: that constant tables (operations, hypercalls where they are a table,
// jump tables of switches, symbols) are the image's. Trusts: the image. An
// attacker can still change what is set at boot, [__ro_after_init_start,
// __ro_after_init_end), and lead a pointer there to another function of the
// image. Before 4.17 that data lies among the writable and is not looked at.
const xenRodataName = "xen.rodata"

func xenRodataCheck() check {
	return check{name: xenRodataName, collect: collectXenRodata, judge: judgeXenRodata}
}

func collectXenRodata(c *collector) (any, measure.Coverage, error) {
	r, err := c.region("rodata", c.xen.Bounds.Rodata, c.xen.Bounds.RodataEnd)
	if err != nil {
		return nil, measure.Coverage{}, err
	}
	return r, r.coverage(), nil
}

func judgeXenRodata(j *judging, raw json.RawMessage, out *measure.Check) error {
	var r region
	if err := decode(raw, &r); err != nil {
		return err
	}
	img, err := j.xenImage()
	if err != nil {
		return err
	}
	j.xenSymbols(img, out)
	bounds := img.Bounds()
	seen, err := j.xenBytes(&r, bounds.Rodata, bounds.RodataEnd)
	if err != nil || seen == nil {
		return err
	}
	want := append([]byte(nil), img.At(bounds.Rodata, len(seen))...)
	leaveOut := func(from, to mem.Virt) { copy(want[from-bounds.Rodata:to-bounds.Rodata], seen[from-bounds.Rodata:]) }
	for _, t := range img.Exceptions() {
		leaveOut(t.Start, t.End())
	}
	if bounds.SetAtBoot != 0 {
		leaveOut(bounds.SetAtBoot, bounds.SetAtBootEnd)
		out.Findings = append(out.Findings, xenPointers(img, bounds, seen)...)
		out.Reason = fmt.Sprintf("of %d bytes at %v, which Xen sets at boot, only pointers to code are judged",
			bounds.SetAtBootEnd-bounds.SetAtBoot, bounds.SetAtBoot)
	}
	out.Findings = append(out.Findings, xenDifferences(img, kernel.Runs(bounds.Rodata, seen, want, "read-only data is not what the file says"))...)
	return nil
}

// xenPointers judges what is set at boot: words that point into text lead to
// functions.
func xenPointers(img *xen.Image, bounds xen.Bounds, rodata []byte) []measure.Finding {
	var out []measure.Finding
	for at := bounds.SetAtBoot; at+8 <= bounds.SetAtBootEnd; at += 8 {
		if inTables(img, at) {
			continue
		}
		v := mem.Virt(binary.LittleEndian.Uint64(rodata[at-bounds.Rodata:]))
		if v < bounds.Text || v >= bounds.TextEnd || img.Function(v) {
			continue
		}
		out = append(out, measure.Finding{Address: at.String(), Symbol: img.Name(at), Observed: fmt.Sprintf("%v (%s)", v, img.Name(v)),
			Explanation: "a pointer set at boot goes into the text, but not to the start of a function"})
	}
	return out
}

func inTables(img *xen.Image, at mem.Virt) bool {
	for _, t := range img.Exceptions() {
		if at+8 > t.Start && at < t.End() {
			return true
		}
	}
	return false
}

// xenSymbols holds the symbols that the scan went by against the image's.
func (j *judging) xenSymbols(img *xen.Image, out *measure.Check) {
	want := Digest(img.Symbols.Digest(uint64(xen.Base))).String()
	if seen := j.obs.Kernel.SymbolDigest; seen != want {
		out.Findings = append(out.Findings, measure.Finding{
			Symbol: "symbols", Observed: fmt.Sprintf("%d symbols, digest %.64s", j.obs.Kernel.Symbols, seen),
			Expected:    fmt.Sprintf("%d symbols, digest %s", img.Symbols.Len(), want),
			Explanation: "the symbols that the scan found in the target, and went by, are not those of the image",
		})
	}
}
