package check

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel/xen"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

func judgeXenPageTables(j *judging, raw json.RawMessage, out *measure.Check) error {
	var data xenPageTables
	if err := decode(raw, &data); err != nil {
		return err
	}
	img, err := j.xenImage()
	if err != nil {
		return err
	}
	if len(data.Executable) == 0 {
		return errNotObserved
	}
	say := func(list *[]measure.Finding, r mappedRange, explanation string) {
		*list = append(*list, measure.Finding{Address: r.Start.String(), Symbol: r.Symbol,
			Observed: fmt.Sprintf("%d bytes at physical %v", r.Size, r.Phys), Explanation: explanation})
	}
	for _, r := range data.Writable {
		say(&out.Findings, r, "memory of Xen is both writable and executable")
	}
	for _, r := range j.xenUnowned(img, data.Executable) {
		if mem.Virt(r.Start)+mem.Virt(r.Size) <= xen.Base && xen.Base-mem.Virt(r.Start) == mem.Virt(data.Image-r.Phys) && img.Before(4, 17) {
			say(&out.Notes, r, "memory before the image is executable, as Xen leaves it before 4.17; what is in it is not measured")
			continue
		}
		say(&out.Findings, r, "executable memory that is neither Xen's text nor the stub of a CPU")
	}
	for _, r := range data.Aliases {
		if mem.Virt(r.Start) == xen.DirectMap+mem.Virt(r.Phys) && img.Before(4, 20) {
			say(&out.Notes, r, "the map of all RAM has Xen's image writable, as Xen leaves it before 4.20")
			continue
		}
		say(&out.Findings, r, "a writable mapping reaches Xen's text or read-only data")
	}
	for _, r := range data.User {
		from, to := slotRange(xenSlotFirst, xenSlotFirst+1)
		if mem.Virt(r.Start) < from || mem.Virt(r.Start)+mem.Virt(r.Size)-1 > to {
			say(&out.Findings, r, "memory of Xen is marked for user mode")
		}
	}
	for _, r := range data.Guests {
		say(&out.Findings, r, "a guest's page tables reach Xen's image")
	}
	for _, f := range data.Foreign {
		out.Findings = append(out.Findings, measure.Finding{
			Symbol:   fmt.Sprintf("top page table of CPU %d, entry %d", f.CPU, f.Index),
			Observed: fmt.Sprintf("%#x", f.Have), Expected: fmt.Sprintf("%#x", f.Want),
			Explanation: "the CPU has other memory in Xen's part of the address space than Xen's own page tables",
		})
	}
	if len(data.Lost) > 0 {
		return fmt.Errorf("%d page tables could not be read, first %s", len(data.Lost), data.Lost[0])
	}
	if err := data.Absent.unaccounted(); err != nil {
		return err
	}
	var remarks []string
	if len(out.Notes) > 0 {
		remarks = append(remarks, "Xen leaves mappings that a later version does not, see the notes")
	}
	if data.Truncated > 0 {
		remarks = append(remarks, fmt.Sprintf("on %d CPUs only the first %d mappings of the guest were looked at", data.Truncated, maxGuestPages))
	}
	out.Reason = strings.Join(remarks, "; ")
	return nil
}

// xenUnowned returns what is executable outside of Xen's text and the stubs, of
// which there is a page for each CPU.
func (j *judging) xenUnowned(img *xen.Image, ranges []mappedRange) []mappedRange {
	b := img.Bounds()
	stubs := address(min(max(j.obs.Kernel.CPUs, 0), maxXenStubs)) * mem.PageSize
	return unownedRanges(ranges, []owner{
		{Kind: "text", Start: address(b.Text), Size: uint64(b.TextEnd - b.Text)},
		{Kind: "stubs", Start: address(xen.StubsLast) + 1 - stubs, Size: uint64(stubs)},
	})
}
