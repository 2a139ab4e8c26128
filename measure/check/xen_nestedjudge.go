package check

import (
	"fmt"
	"slices"

	"github.com/plumbline-sec/plumbline/measure"
)

// Types of entries that map memory which is not the domain's own (p2m_grant_map_rw,
// p2m_grant_map_ro, p2m_ram_shared and p2m_map_foreign), and that of devices
// (p2m_mmio_direct): include/asm/p2m.h, the same from 4.14 to 4.20.
var (
	nestedShared = []int{7, 8, 12, 14}
	nestedDevice = []int{5}
)

// nestedRemarks is what the judgement of nested tables adds to the reason.
type nestedRemarks struct {
	measured []string // figures of domains
	open     []string // what could not be judged
}

// judgeNested judges the nested tables of a domain.
func (r *nestedRemarks) judgeNested(d *xenDomain, out *measure.Check) {
	if d.Nested == nil {
		why := d.Unread
		if why == "" {
			why = errNotObserved.Error()
		}
		r.open = append(r.open, fmt.Sprintf("the second-level page tables of domain %d are not measured: %s", d.ID, why))
		return
	}
	n := d.Nested
	say := func(at, observed, expected, explanation string) {
		out.Findings = append(out.Findings, measure.Finding{Address: at, Symbol: fmt.Sprintf("domain %d", d.ID),
			Observed: observed, Expected: expected, Explanation: explanation})
	}
	for _, cpu := range n.CPUs {
		at := cpu.VMCB.String()
		if !cpu.Nested {
			say(at, fmt.Sprintf("nested paging of CPU %d is off", cpu.ID), "on", "the domain's own page tables reach all of the machine's memory")
		}
		if !cpu.Heap {
			say(at, fmt.Sprintf("a VMCB of CPU %d outside of Xen's heap", cpu.ID), "in Xen's heap", "others may write what the processor runs the domain by")
		}
		if cpu.Root != n.Root {
			out.Notes = append(out.Notes, measure.Finding{Address: at, Symbol: fmt.Sprintf("domain %d", d.ID),
				Observed: fmt.Sprintf("CPU %d runs on nested tables at %v", cpu.ID, cpu.Root), Expected: n.Root.String(),
				Explanation: "its tables are not the domain's, as with nested virtualization; they are judged by the same rules"})
		}
	}
	for _, o := range n.Odd {
		say(o.Guest.String(), o.Says, "", "nested page tables that are not as Xen makes them")
	}
	var shared, device uint64
	for _, s := range n.Strays {
		explanation := s.finding()
		switch {
		case explanation != "":
			say(s.Guest.String(), fmt.Sprintf("%d bytes at physical %v, type %d", s.Size, s.Phys, s.Type), "memory of the domain", explanation)
		case s.Owner == ownerIO:
			device += s.Size
		default:
			shared += s.Size
		}
	}
	if n.Cut {
		r.open = append(r.open, fmt.Sprintf("of what is out of place in the nested page tables of domain %d only the first %d of a kind were kept", d.ID, maxStrays))
	}
	if shared > 0 {
		r.open = append(r.open, fmt.Sprintf("domain %d has %d bytes of others mapped as granted, shared or foreign: what allows it is not read", d.ID, shared))
	}
	if device > 0 {
		r.open = append(r.open, fmt.Sprintf("domain %d has %d bytes of devices mapped: what allows it is not read", d.ID, device))
	}
	r.measured = append(r.measured, fmt.Sprintf("domain %d has %d CPUs, %d nested page tables, %d entries that map %d frames",
		d.ID, len(n.CPUs), n.Tables, n.Entries, n.Frames))
}

// finding says what is wrong with a range that is not the domain's own; empty for
// what may be right, by the type of its entry.
func (s nestedRange) finding() string {
	switch s.Holds {
	case "":
	case holdsImage:
		return "a domain's nested page tables reach Xen's image"
	default:
		return fmt.Sprintf("a domain's nested page tables reach the %s of Xen", s.Holds)
	}
	switch {
	case s.Owner == ownerReleased:
		return "a domain's nested page tables reach memory that it gave back"
	case s.Owner == ownerNone:
		return "a domain's nested page tables reach memory that is free or Xen's"
	case s.Owner == ownerIO && slices.Contains(nestedDevice, s.Type):
		return ""
	case s.Owner == ownerIO:
		return "a domain's nested page tables have as memory what is none of the machine's"
	case s.Owner != ownerUnknown && slices.Contains(nestedShared, s.Type):
		return ""
	case s.Owner == ownerDomain:
		return fmt.Sprintf("a domain's nested page tables reach memory of domain %d, which is not mapped as granted or foreign", s.Domain)
	}
	return "a domain's nested page tables reach memory that is not its own"
}
