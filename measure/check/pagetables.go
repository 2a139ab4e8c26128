package check

import (
	"errors"
	"fmt"
	"slices"
	"time"

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
// has the kernel's half that init_top_pgt has, or with page-table isolation a
// part of it that maps the same pages; and so has each process, running or not.
//
// Proves: that measured text cannot be changed without changing page tables,
// and that kernel code outside of measured text runs only where BPF, probes and
// tracers put it. Trusts: the kernel's own accounts of those (linux.dynamic
// compares what lies in their memory), and the symbols that bound text. It cannot
// see what a CPU still has in its TLB, nor what the lower halves of processes' tables
// map. A CPU that has not started has no tables and is left out (absent.go).
const pageTablesName = "linux.pagetables"

func pageTablesCheck() check {
	return check{name: pageTablesName, collect: collectPageTables, judge: judgePageTables}
}

// pageTablesData are the facts of linux.pagetables.
type pageTablesData struct {
	Pages      int64         `json:"pages"`               // mappings visited, of any size
	Executable []mappedRange `json:"executable"`          // all that is executable
	Writable   []mappedRange `json:"writable_executable"` // those that are writable too
	User       []mappedRange `json:"user"`                // marked for user mode, whether or not upper levels are too
	Aliases    []mappedRange `json:"aliases"`             // writable mappings of protected memory
	Lost       []string      `json:"lost,omitempty"`      // tables that could not be read
	Owners     []owner       `json:"owners"`              // accounts of executable memory
	Freeing    []owner       `json:"freeing,omitempty"`   // who frees executable memory that has no account any more
	Espfix     espfixFacts   `json:"espfix"`
	Foreign    []foreignRoot `json:"foreign,omitempty"`    // CPUs whose kernel half is not the kernel's
	Incomplete string        `json:"incomplete,omitempty"` // why accounts may be missing
	Starting   []string      `json:"starting,omitempty"`   // modules whose code for their start is there
	Starts     []region      `json:"starts,omitempty"`     // that code, as far as it was read, by the module's name
	Absent     absentCPUs    `json:"absent,omitempty"`
	Processes  []processRoot `json:"processes,omitempty"` // whose kernel half is not the kernel's
	Compared   int           `json:"compared"`            // processes whose top tables were compared
	Unlisted   string        `json:"unlisted,omitempty"`  // why processes could not be listed
	NoCPUs     bool          `json:"no_cpus,omitempty"`   // the source has no registers: no CPU's own tables were seen
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

// kernelFirst is the lowest address of the kernel's half with five levels; with
// four it is higher.
const kernelFirst mem.Virt = 0xff00_0000_0000_0000

// collectPageTables walks the tables, and again while memory is executable that
// has no account, or protected memory is not: it may be of a module that goes. A
// module that starts is waited for.
func collectPageTables(c *collector) (any, measure.Coverage, error) {
	var g grace
	for {
		began := time.Now()
		data, coverage, err := c.walkPageTables()
		unsettled := len(unownedRanges(data.Executable, data.Owners)) > 0 || len(data.Aliases) > 0 || data.Espfix.odd()
		if err != nil || !unsettled && len(data.Starting) == 0 {
			return data, coverage, err
		}
		if !c.wait(&g) {
			if unsettled && !c.still && !g.passed() && !data.freed() {
				err = errStarved
			}
			c.readStarts(&data)
			return data, coverage, err
		}
		c.patience -= time.Since(began)
	}
}

// freed reports whether all that is odd is memory that the kernel is about to free.
func (d *pageTablesData) freed() bool {
	return len(unownedRanges(d.Executable, slices.Concat(d.Owners, d.Freeing))) == 0 && len(d.Aliases) == 0 && !d.Espfix.odd()
}

func (c *collector) walkPageTables() (pageTablesData, measure.Coverage, error) {
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
	if err == nil && w.err == nil {
		err = w.espfix(lost)
	}
	if err := errors.Join(err, w.err); err != nil {
		return w.data, measure.Coverage{}, err
	}
	w.finish()
	w.data.NoCPUs, w.data.Absent = len(c.registers) == 0, c.absent
	if err := c.roots(&w.data); err != nil {
		return w.data, measure.Coverage{}, err
	}
	var unlisted error
	if w.data.Processes, w.data.Compared, unlisted = c.processRoots(); unlisted != nil {
		w.data.Unlisted = unlisted.Error() // what else was seen counts all the same
	}
	var accounts []error
	w.data.Owners, accounts = c.owners()
	if err := errors.Join(accounts...); err != nil {
		w.data.Incomplete = err.Error()
	}
	w.data.Starting = c.starting(w.data.Executable)
	w.data.Owners = append(w.data.Owners, c.trapped(unownedRanges(w.data.Executable, w.data.Owners))...)
	w.data.Owners = append(w.data.Owners, c.unnamed(unownedRanges(w.data.Executable, w.data.Owners))...)
	var err2 error
	if w.data.Freeing, err2 = c.freeing(unownedRanges(w.data.Executable, w.data.Owners)); err2 != nil && w.data.Incomplete == "" {
		w.data.Incomplete = fmt.Sprintf("who frees it: %v", err2)
	}
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
	gone, _ := w.goneModules()
	for _, m := range w.modules {
		for _, a := range m.Areas {
			if m.Live && !slices.Contains(gone, m.Name) && (a.Kind == kernel.AreaText || a.Kind == kernel.AreaRodata) {
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
	d := &w.data
	for _, list := range []*[]mappedRange{&d.Executable, &d.Writable, &d.User, &d.Aliases, &d.Espfix.Writable, &d.Espfix.Others} {
		for i := range *list {
			(*list)[i].Symbol = w.symbol(mem.Virt((*list)[i].Start))
		}
	}
}

// rootAttempts is how often the CPUs' tables are compared: a process may end
// between the moment its registers are read and the moment its tables are.
const rootAttempts = 3

// roots compares the kernel's half of each CPU's top table with the kernel's
// own. Processes copy it when they are made (pgd_ctor, arch/x86/mm/pgtable.c). A
// difference counts if it is there each time, with registers read anew; and so does
// a table that cannot be walked: memory that was a table may hold anything by then.
func (c *collector) roots(data *pageTablesData) error {
	registers := c.registers
	for attempt := 1; ; attempt++ {
		var err error
		data.Foreign, err = c.foreignRoots(registers)
		if err == nil && len(data.Foreign) == 0 || c.machine == nil || attempt == rootAttempts {
			return err
		}
		var unread absentCPUs
		if registers, unread, err = c.readRegisters(); err != nil {
			return err
		}
		data.Absent = append(c.absent.offline(), unread...)
		registers = data.Absent.without(registers)
	}
}

func (c *collector) foreignRoots(registers []mem.Registers) ([]foreignRoot, error) {
	space := c.profile.Space
	var want, have [mem.PageSize]byte
	if err := space.Memory().ReadPhys(want[:], space.Root()); err != nil {
		return nil, err
	}
	var out []foreignRoot
	for _, r := range registers {
		cpu, err := paging.NewSpace(space.Memory(), &r)
		if err != nil {
			return nil, fmt.Errorf("CPU %d: %w", r.CPU, err)
		}
		if err := space.Memory().ReadPhys(have[:], cpu.Root()); err != nil {
			return nil, fmt.Errorf("CPU %d: %w", r.CPU, err)
		}
		foreign := topDifferences(r, space.Levels(), want[:], have[:])
		if len(foreign) > 0 && r.CPL == 3 && cpu.Root()&isolatedRoot != 0 {
			if foreign, err = c.isolated(r, cpu, want[:], foreign); err != nil {
				return nil, err
			}
		}
		out = append(out, foreign...)
	}
	return out, nil
}

// isolatedRoot is set in CR3 while user mode runs with page-table isolation: the
// kernel's own table is the page before (PTI_USER_PGTABLE_BIT,
// arch/x86/entry/calling.h).
const isolatedRoot = 0x1000

// isolated judges a table that differs from the kernel's as page-table isolation
// would have it: the table it belongs to must be like the kernel's, and all that
// it maps in the entries that differ must be what the kernel has there too
// (pti_clone_pgtable and others, arch/x86/mm/pti.c).
func (c *collector) isolated(r mem.Registers, cpu *paging.Space, want []byte, differ []foreignRoot) ([]foreignRoot, error) {
	var own [mem.PageSize]byte
	if err := cpu.Memory().ReadPhys(own[:], cpu.Root()&^isolatedRoot); err != nil {
		return nil, fmt.Errorf("CPU %d: %w", r.CPU, err)
	}
	out := topDifferences(r, cpu.Levels(), want, own[:])
	shift := 12 + 9*(cpu.Levels()-1)
	for _, d := range differ {
		from := mem.Virt(int64(uint64(d.Index)<<(64-9)) >> (64 - 9 - shift))
		to := from | (1<<shift - 1)
		same, err := c.mapsTheSame(cpu, from, min(to, max(from, espfixFirst-1)))
		if err == nil && same && to > espfixLast {
			same, err = c.mapsTheSame(cpu, max(from, espfixLast+1), to)
		}
		if err == nil && same && from <= espfixFirst && to >= espfixLast {
			same, err = c.sameEspfix(cpu)
		}
		if err != nil {
			return nil, fmt.Errorf("CPU %d: %w", r.CPU, err)
		}
		if !same {
			out = append(out, d)
		}
	}
	return out, nil
}

// mapsTheSame reports whether every page that a CPU's tables map in a range is
// the one that the kernel has there, with no more rights: isolation copies entries
// as they are (arch/x86/mm/pti.c, pti_clone_pgtable).
func (c *collector) mapsTheSame(cpu *paging.Space, from, to mem.Virt) (bool, error) {
	same := true
	err := cpu.Walk(from, to, func(m paging.Mapping) bool {
		for off := uint64(0); same && off < m.Size; {
			k, err := c.space.Translate(m.Virt + mem.Virt(off))
			at := uint64(m.Virt-k.Virt) + off // into the kernel's page
			same = err == nil && k.Phys+mem.Phys(at) == m.Phys+mem.Phys(off) && grants(m)&^grants(k) == 0
			off += max(k.Size-min(at, k.Size), mem.PageSize)
		}
		return same
	}, nil)
	return same, err
}

// grants are the rights of a mapping: to write, to execute, to be used by user mode.
func grants(m paging.Mapping) paging.Flags {
	return m.Flags&(paging.Writable|paging.User|paging.NoExecute) ^ paging.NoExecute
}

// Entry bits that a CPU sets by itself or that software uses (accessed, dirty,
// bits 9 to 11): they say nothing about where the entry goes.
const volatileBits = 1<<5 | 1<<6 | 7<<9

// topDifferences compares the upper halves of two top tables. Missing entries
// are no finding. The entry of the local descriptor table is the process's own
// (LDT_PGD_ENTRY).
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
		out = append(out, foreignRoot{CPU: r.CPU, Index: i, Have: h, Want: w})
	}
	return out
}
