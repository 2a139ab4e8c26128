package check

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// vsyscall is the one page of the kernel's half that user mode may read or, in
// old configurations, run (arch/x86/entry/vsyscall/vsyscall_64.c).
const vsyscall address = 0xffff_ffff_ff60_0000

func judgePageTables(j *judging, raw json.RawMessage, out *measure.Check) error {
	var data pageTablesData
	if err := decode(raw, &data); err != nil {
		return err
	}
	if len(data.Executable) == 0 {
		return errNotObserved
	}
	report := func(r mappedRange, explanation string) {
		out.Findings = append(out.Findings, measure.Finding{
			Address: r.Start.String(), Symbol: r.Symbol,
			Observed:    fmt.Sprintf("%d bytes at physical %v", r.Size, r.Phys),
			Explanation: explanation,
		})
	}
	for _, r := range data.Writable {
		if j.keptWritable(data.Owners, r) {
			out.Notes = append(out.Notes, measure.Finding{Address: r.Start.String(), Observed: fmt.Sprintf("%d bytes", r.Size),
				Explanation: "this kernel keeps the memory of BPF's trampolines both writable and executable"})
			continue
		}
		report(r, "memory of the kernel is both writable and executable")
	}
	for _, r := range data.Aliases {
		report(r, "a writable mapping reaches text or read-only data")
	}
	for _, r := range data.User {
		if r.Start != vsyscall || r.Size != mem.PageSize {
			report(r, "memory in the kernel's half is marked for user mode")
		}
	}
	for _, r := range data.Espfix.Writable {
		report(r, "the area of espfix stacks, which is read-only, is writable")
	}
	for _, r := range data.Espfix.Others {
		report(r, "the area of espfix stacks maps a page that is none of them")
	}
	for _, f := range data.Foreign {
		out.Findings = append(out.Findings, measure.Finding{
			Symbol:   fmt.Sprintf("top page table of CPU %d, entry %d", f.CPU, f.Index),
			Observed: fmt.Sprintf("%#x", f.Have), Expected: fmt.Sprintf("%#x", f.Want),
			Explanation: "the CPU has other memory in the kernel's half than the kernel's own page tables, or more rights to it",
		})
	}
	var unread []string
	for _, p := range data.Processes {
		if p.Unread != "" {
			unread = append(unread, fmt.Sprintf("%s (process %d): %s", p.Comm, p.Process, p.Unread))
			continue
		}
		of := "top page table"
		if p.Isolated {
			of += " for user mode"
		}
		out.Findings = append(out.Findings, measure.Finding{
			Address: p.At.String(), Symbol: fmt.Sprintf("%s of %s (process %d), entry %d", of, p.Comm, p.Process, p.Index),
			Observed: fmt.Sprintf("%#x", p.Have), Expected: fmt.Sprintf("%#x", p.Want),
			Explanation: "the process has other memory in the kernel's half than the kernel's own page tables, or more rights to it",
		})
	}
	unowned := unownedRanges(data.Executable, data.Owners)
	if data.Incomplete != "" && len(unowned) > 0 {
		return errors.New("accounts of executable memory could not be read: " + data.Incomplete)
	}
	for _, r := range unownedRanges(unowned, data.Freeing) {
		report(r, "executable memory that belongs to neither the kernel, a module, BPF, a probe nor a tracer")
	}
	if len(data.Freeing) > 0 {
		return errors.New("executable memory that the kernel is making, or about to free, is not compared: " + freedOf(data.Freeing))
	}
	if starting := j.notCompared(&data, out); len(starting) > 0 {
		return fmt.Errorf("modules that have not ended their start have executable memory that is not compared: %s", strings.Join(starting, ", "))
	}
	if data.Unlisted != "" {
		return errors.New("tables of processes that do not run were not compared: " + data.Unlisted)
	}
	if len(unread) > 0 {
		return fmt.Errorf("top page tables of %d processes could not be read, first of %s", len(unread), unread[0])
	}
	if len(data.Lost) > 0 {
		return fmt.Errorf("%d page tables could not be read, first %s", len(data.Lost), data.Lost[0])
	}
	if data.Espfix.Unknown != "" {
		return errors.New("which pages the area of espfix stacks should map is not known: " + data.Espfix.Unknown)
	}
	if err := data.Absent.unaccounted(); err != nil {
		return err
	}
	out.Reason = data.Absent.leftOut()
	if data.NoCPUs {
		out.Reason = "the source has no registers: these are the kernel's tables, no CPU's own were compared with them"
	}
	return nil
}

// keptWritable reports whether a range is of BPF's trampolines and dispatchers, on
// a kernel that leaves those writable: one before 5.18, which came with memory
// that programs share (kernel/bpf/trampoline.c, "Keep image as writeable").
func (j *judging) keptWritable(owners []owner, r mappedRange) bool {
	if j.code.symbols != nil {
		if _, later := j.code.symbols.Address("pack_list"); later {
			return false
		}
	}
	var trampolines []owner
	for _, o := range owners {
		if o.Kind == "bpf programs" { // shared: by the target's own symbols a later kernel
			return false
		}
		if o.Kind == bpfTrampoline {
			trampolines = append(trampolines, o)
		}
	}
	return len(unownedRanges([]mappedRange{r}, trampolines)) == 0
}

// unownedRanges returns what of the ranges no owner has, in whole pages.
func unownedRanges(ranges []mappedRange, owners []owner) []mappedRange {
	sorted := slices.Clone(owners)
	slices.SortFunc(sorted, func(a, b owner) int {
		switch {
		case a.Start < b.Start:
			return -1
		case a.Start > b.Start:
			return 1
		}
		return 0
	})
	var out []mappedRange
	for _, r := range ranges {
		at, end := r.Start, r.Start+address(r.Size)
		for _, o := range sorted {
			last := (o.Start + address(o.Size) + mem.PageSize - 1) &^ (mem.PageSize - 1)
			if o.Size == 0 || last <= at || last < o.Start {
				continue
			}
			if o.Start >= end {
				break
			}
			if o.Start > at {
				out = append(out, part(r, at, o.Start))
			}
			at = last
			if at >= end {
				break
			}
		}
		if at < end {
			out = append(out, part(r, at, end))
		}
	}
	return out
}

func part(r mappedRange, from, to address) mappedRange {
	p := mappedRange{Start: from, Size: uint64(to - from), Phys: r.Phys + mem.Phys(from-r.Start)}
	if from == r.Start {
		p.Symbol = r.Symbol
	}
	return p
}
