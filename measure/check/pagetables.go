package check

import (
	"errors"
	"fmt"
	"slices"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/paging"
)

// linux.pagetables: in the kernel's half of the address space no page is both
// writable and executable, none but vsyscall is open to user mode, every
// executable page belongs to the kernel, a module or something else the kernel
// keeps account of, and no writable mapping, the direct map included, reaches
// the text or read-only data of the kernel or a module. Every CPU that was read
// has the kernel's half that init_top_pgt has.
//
// Proves: that measured text cannot be changed without changing page tables,
// and that kernel code outside of measured text runs only where BPF, probes and
// tracers put it. Trusts: the kernel's own accounts of those (what lies in their
// memory is another matter), and the symbols that bound text. It cannot see
// what a CPU still has in its TLB, nor tables of processes that did not run.
const pageTablesName = "linux.pagetables"

func pageTablesCheck() check {
	return check{name: pageTablesName, collect: collectPageTables, judge: judgePageTables}
}

// pageTablesData are the facts of linux.pagetables.
type pageTablesData struct {
	Pages      int64         `json:"pages"`                // mappings visited, of any size
	Executable []mappedRange `json:"executable"`           // all that is executable
	Writable   []mappedRange `json:"writable_executable"`  // those that are writable too
	User       []mappedRange `json:"user"`                 // marked for user mode, whether or not upper levels are too
	Aliases    []mappedRange `json:"aliases"`              // writable mappings of protected memory
	Lost       []string      `json:"lost,omitempty"`       // tables that could not be read
	Owners     []owner       `json:"owners"`               // accounts of executable memory
	Foreign    []foreignRoot `json:"foreign,omitempty"`    // CPUs whose kernel half is not the kernel's
	Incomplete string        `json:"incomplete,omitempty"` // why accounts may be missing
}

// mappedRange is a run of pages with the same permissions.
type mappedRange struct {
	Start  address  `json:"start"`
	Size   uint64   `json:"size"` // bytes
	Phys   mem.Phys `json:"phys"` // of the first page
	Symbol string   `json:"symbol,omitempty"`
}

// owner is an account of executable memory.
type owner struct {
	Kind  string  `json:"kind"` // "kernel", "module kvm", "bpf", ...
	Start address `json:"start"`
	Size  uint64  `json:"size"` // bytes
}

// foreignRoot is an entry of a CPU's top table that differs from the kernel's.
type foreignRoot struct {
	CPU   int    `json:"cpu"`
	Index int    `json:"index"`
	Have  uint64 `json:"have"`
	Want  uint64 `json:"want"`
}

// Bounds of the facts, so that a hostile target cannot make them large.
const maxRanges = 20_000

var errTooManyRanges = errors.New("too many differently mapped ranges")

// The area of espfix stacks maps the same few pages 65,536 times over
// (arch/x86/kernel/espfix_64.c), read-only and not executable; it is left out.
const (
	espfixFirst mem.Virt = 0xffff_ff00_0000_0000
	espfixLast  mem.Virt = 0xffff_ff7f_ffff_ffff
	kernelFirst mem.Virt = 0xff00_0000_0000_0000 // with five levels; higher with four
)

func collectPageTables(c *collector) (any, measure.Coverage, error) {
	w := tableWalk{collector: c}
	w.protect()
	space := c.profile.Space
	lost := func(from, to mem.Virt, err error) {
		if len(w.data.Lost) < 100 {
			w.data.Lost = append(w.data.Lost, fmt.Sprintf("[%v, %v]: %v", from, to, err))
		}
	}
	err := space.Walk(kernelFirst, espfixFirst-1, w.visit, lost)
	if err == nil && w.err == nil {
		err = space.Walk(espfixLast+1, ^mem.Virt(0), w.visit, lost)
	}
	if err := errors.Join(err, w.err); err != nil {
		return nil, measure.Coverage{}, err
	}
	w.finish()
	if err := c.roots(&w.data); err != nil {
		return nil, measure.Coverage{}, err
	}
	var accounts []error
	w.data.Owners, accounts = c.owners()
	if err := errors.Join(accounts...); err != nil {
		w.data.Incomplete = err.Error()
	}
	w.data.Owners = append(w.data.Owners, c.trapped(unownedRanges(w.data.Executable, w.data.Owners))...)
	return w.data, measure.Coverage{Objects: w.data.Pages, Bytes: w.mapped}, nil
}

// tableWalk gathers ranges during a walk.
type tableWalk struct {
	*collector
	data      pageTablesData
	protected []mem.Extent // physical memory that nothing may write, ascending
	mapped    int64
	err       error

	open map[*[]mappedRange]mem.Virt // where the list's last range ends
}

// protect lists the physical memory of text and read-only data.
func (w *tableWalk) protect() {
	w.open = make(map[*[]mappedRange]mem.Virt)
	add := func(from, to mem.Virt) {
		for at := from &^ (mem.PageSize - 1); at < to; at += mem.PageSize {
			p, err := w.space.Phys(at)
			if err != nil {
				continue
			}
			if n := len(w.protected); n > 0 && w.protected[n-1].End() == p {
				w.protected[n-1].Size += mem.PageSize
				continue
			}
			w.protected = append(w.protected, mem.Extent{Start: p, Size: mem.PageSize})
		}
	}
	for _, names := range [][2]string{{"_text", "_etext"}, {"__start_rodata", "__end_rodata"}} {
		from, ok1 := w.profile.Symbol(names[0])
		to, ok2 := w.profile.Symbol(names[1])
		if ok1 && ok2 && to-from < 1<<28 {
			add(from, to)
		}
	}
	for _, m := range w.modules {
		for _, a := range m.Areas {
			if m.Live && (a.Kind == kernel.AreaText || a.Kind == kernel.AreaRodata) {
				add(a.Start, a.End())
			}
		}
	}
	slices.SortFunc(w.protected, func(a, b mem.Extent) int { return int(int64(a.Start) - int64(b.Start)) })
}

func (w *tableWalk) visit(m paging.Mapping) bool {
	w.data.Pages++
	w.mapped += int64(m.Size)
	executable, writable := m.Flags&paging.NoExecute == 0, m.Flags&paging.Writable != 0
	if executable {
		w.add(&w.data.Executable, m)
	}
	if executable && writable {
		w.add(&w.data.Writable, m)
	}
	if m.Entry&paging.EntryUser != 0 {
		w.add(&w.data.User, m)
	}
	if writable && w.touches(m.Phys, m.Size) {
		w.add(&w.data.Aliases, m)
	}
	return w.err == nil && w.ctx.Err() == nil
}

// touches reports whether a physical range holds protected memory.
func (w *tableWalk) touches(at mem.Phys, size uint64) bool {
	i, _ := slices.BinarySearchFunc(w.protected, at, func(e mem.Extent, at mem.Phys) int {
		if e.End() <= at {
			return -1
		}
		return 1
	})
	return i < len(w.protected) && uint64(w.protected[i].Start) < uint64(at)+size
}

// add appends a page to a list, or to its last range if it continues that.
func (w *tableWalk) add(list *[]mappedRange, m paging.Mapping) {
	if n := len(*list); n > 0 && w.open[list] == m.Virt {
		(*list)[n-1].Size += m.Size
	} else if n == maxRanges {
		w.err = errTooManyRanges
	} else {
		*list = append(*list, mappedRange{Start: address(m.Virt), Size: m.Size, Phys: m.Phys})
	}
	w.open[list] = m.Virt + mem.Virt(m.Size)
}

// finish names the ranges.
func (w *tableWalk) finish() {
	for _, list := range []*[]mappedRange{&w.data.Executable, &w.data.Writable, &w.data.User, &w.data.Aliases} {
		for i := range *list {
			(*list)[i].Symbol = w.symbol(mem.Virt((*list)[i].Start))
		}
	}
}

// roots compares the kernel's half of each CPU's top table with the kernel's
// own. Processes copy it when they are made (pgd_ctor, arch/x86/mm/pgtable.c).
func (c *collector) roots(data *pageTablesData) error {
	var want [mem.PageSize]byte
	space := c.profile.Space
	if err := c.profile.Space.Memory().ReadPhys(want[:], space.Root()); err != nil {
		return err
	}
	for _, r := range c.registers {
		cpu, err := paging.NewSpace(space.Memory(), &r)
		if err != nil {
			return fmt.Errorf("CPU %d: %w", r.CPU, err)
		}
		var have [mem.PageSize]byte
		if err := space.Memory().ReadPhys(have[:], cpu.Root()); err != nil {
			return fmt.Errorf("CPU %d: %w", r.CPU, err)
		}
		data.Foreign = append(data.Foreign, topDifferences(r, space.Levels(), want[:], have[:])...)
	}
	return nil
}

// Entry bits that a CPU sets by itself or that software uses (accessed, dirty,
// bits 9 to 11): they say nothing about where the entry goes.
const volatileBits = 1<<5 | 1<<6 | 7<<9

// topDifferences compares the upper halves of two top tables. A CPU stopped in
// user mode with page-table isolation has another table, where most of the
// kernel is left out: missing entries are no finding. The entry of the local
// descriptor table is the process's own (LDT_PGD_ENTRY).
func topDifferences(r mem.Registers, levels int, want, have []byte) []foreignRoot {
	local := 512 - 240
	if levels == 5 {
		local = 512 - 112
	}
	var out []foreignRoot
	for i := 256; i < 512; i++ {
		w, h := entryAt(want, i), entryAt(have, i)
		if h&1 == 0 || i == local || w&^volatileBits == h&^volatileBits {
			continue
		}
		if r.CPL == 3 { // isolated tables have entries of their own
			continue
		}
		out = append(out, foreignRoot{CPU: r.CPU, Index: i, Have: h, Want: w})
	}
	return out
}
