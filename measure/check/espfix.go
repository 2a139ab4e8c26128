package check

import (
	"errors"
	"fmt"
	"slices"

	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/paging"
)

// The area of espfix stacks, from which the kernel returns to 16-bit code
// (arch/x86/kernel/espfix_64.c, ESPFIX_BASE_ADDR; not with FRED since 6.9): a page
// for each 64 CPUs, which the tables map 65,536 times over, read-only and not
// executable at any level. The kernel writes to them by way of the direct map.
const (
	espfixFirst mem.Virt = 0xffff_ff00_0000_0000
	espfixLast  mem.Virt = 0xffff_ff7f_ffff_ffff
)

// espfixFacts are what is out of place in that area, beside what is so anywhere.
type espfixFacts struct {
	Pages    int64         `json:"pages"` // mappings that differ, each table being looked at once
	Writable []mappedRange `json:"writable,omitempty"`
	Others   []mappedRange `json:"others,omitempty"`  // pages that espfix_pages does not have
	Unknown  string        `json:"unknown,omitempty"` // why it is not known what that has
}

func (e *espfixFacts) odd() bool { return len(e.Writable)+len(e.Others) > 0 }

// espfix walks the area.
func (w *tableWalk) espfix(lost func(from, to mem.Virt, err error)) error {
	facts := &w.data.Espfix
	var mapped []paging.Mapping
	once := make(map[*[]mappedRange]map[mem.Phys]bool)
	note := func(list *[]mappedRange, m paging.Mapping) { // each page, but not each place that it is at
		if once[list] == nil {
			once[list] = make(map[mem.Phys]bool)
		}
		if !once[list][m.Phys] {
			once[list][m.Phys] = true
			w.add(list, m)
		}
	}
	err := w.profile.Space.WalkOnce(espfixFirst, espfixLast, func(m paging.Mapping) bool {
		if facts.Pages++; len(mapped) == maxRanges {
			w.err = errTooManyRanges
			return false
		}
		mapped = append(mapped, m)
		if m.Flags&paging.Writable != 0 {
			note(&facts.Writable, m)
		}
		return w.visit(m)
	}, lost)
	if err != nil || w.err != nil || len(mapped) == 0 {
		return err
	}
	pages, err := w.espfixPages()
	if err != nil {
		facts.Unknown = err.Error()
		return nil
	}
	for _, m := range mapped {
		if m.Size != mem.PageSize || !slices.Contains(pages, m.Phys) {
			note(&facts.Others, m)
		}
	}
	return nil
}

// maxEspfixPages bounds espfix_pages: Debian's kernels have 128, for 8,192 CPUs.
const maxEspfixPages = 1024

var errNoEspfix = errors.New("no symbol espfix_pages")

// espfixPages returns where the kernel says that the stacks are.
func (c *collector) espfixPages() ([]mem.Phys, error) {
	at, ok := c.profile.Symbol("espfix_pages")
	if !ok {
		return nil, errNoEspfix
	}
	var out []mem.Phys
	size := min(c.profile.Symbols.Next(uint64(at))-uint64(at), maxEspfixPages*8)
	for end := at + mem.Virt(size&^7); at < end; at += 8 {
		page, err := c.space.U64(at)
		if err != nil {
			return nil, fmt.Errorf("espfix_pages: %w", err)
		}
		if page == 0 {
			continue
		}
		p, err := c.space.Phys(mem.Virt(page))
		if err != nil {
			return nil, fmt.Errorf("espfix_pages: %w", err)
		}
		out = append(out, p)
	}
	return out, nil
}

// sameEspfix reports whether a CPU's tables map in the area what the kernel's do,
// with the same rights.
func (c *collector) sameEspfix(cpu *paging.Space) (bool, error) {
	const rights = paging.Writable | paging.User | paging.NoExecute
	same := true
	err := cpu.WalkOnce(espfixFirst, espfixLast, func(m paging.Mapping) bool {
		k, err := c.space.Translate(m.Virt)
		same = err == nil && m.Size == k.Size && m.Phys == k.Phys && m.Flags&rights == k.Flags&rights
		return same
	}, nil)
	return same, err
}
