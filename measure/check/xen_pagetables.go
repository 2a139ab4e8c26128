package check

import (
	"errors"
	"fmt"
	"slices"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel/xen"
	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/paging"
)

// xen.pagetables: in Xen's part of the address space no page is both writable
// and executable, none is open to user mode but the read-only table of machine
// frames that PV guests are given, code is executable in Xen's text and in the
// stubs of CPUs alone, and no writable mapping reaches text or read-only data.
// Every CPU that was read has what Xen's own tables have there, and what its
// guest has mapped does not reach Xen's image.
//
// Proves: that measured code cannot be changed, and none can run elsewhere,
// without changing page tables. Trusts: the symbols that bound the text. Before
// 4.20 Xen itself leaves a writable mapping of its image in the map of all RAM,
// and 4.14 an executable one of the 2 MiB before its image; both are noted, not
// found. It cannot see what a CPU still has in its TLB, nor tables of guests that
// did not run.
const xenPageTablesName = "xen.pagetables"

func xenPageTablesCheck() check {
	return check{name: xenPageTablesName, collect: collectXenPageTables, judge: judgeXenPageTables}
}

// xenPageTables are the facts of xen.pagetables.
type xenPageTables struct {
	Image      mem.Phys      `json:"image"`               // where the image lies
	Executable []mappedRange `json:"executable"`          // all that is executable
	Writable   []mappedRange `json:"writable_executable"` // those that are writable too
	User       []mappedRange `json:"user"`                // marked for user mode, whether or not upper levels are too
	Aliases    []mappedRange `json:"aliases"`             // writable mappings of text or read-only data
	Guests     []mappedRange `json:"guests,omitempty"`    // a guest's mappings of the image
	Foreign    []foreignRoot `json:"foreign,omitempty"`   // CPUs whose part is not Xen's
	Lost       []string      `json:"lost,omitempty"`      // tables that could not be read
	Truncated  int           `json:"truncated,omitempty"` // CPUs of which not all mappings of the guest were looked at
	Absent     absentCPUs    `json:"absent,omitempty"`    // CPUs whose tables are not known
}

// Entries of a top page table (include/asm/config.h). Xen's are 256 to 271; 258
// maps the table itself, 260 is per domain, and 256 holds the table of machine
// frames that guests may read.
const (
	xenSlotFirst     = 256
	xenSlotEnd       = 272
	xenSlotLinear    = 258
	xenSlotPerDomain = 260
)

// maxGuestPages bounds how many mappings of a guest are looked at on a CPU: 4 GiB
// of a PV guest, which has no large pages.
const maxGuestPages = 1 << 20

// slotRange is the range of addresses of an entry of the top table.
func slotRange(first, end int) (from, to mem.Virt) {
	at := func(slot int) mem.Virt { return mem.Virt(int64(uint64(slot)<<55) >> 16) }
	return at(first), at(end-1) + (1<<39 - 1)
}

func collectXenPageTables(c *collector) (any, measure.Coverage, error) {
	w := xenWalk{collector: c}
	w.data.Absent = c.absent
	var err error
	if w.image, err = c.xen.Kept(); err != nil {
		return nil, measure.Coverage{}, err
	}
	w.data.Image = c.xen.Phys
	w.protected = mem.Extent{Start: c.xen.Phys, Size: uint64(c.xen.Bounds.RodataEnd - xen.Base)}
	for _, slots := range [][2]int{{xenSlotFirst, xenSlotLinear}, {xenSlotLinear + 1, xenSlotEnd}} {
		if err := w.walk(c.xen.Space, slots[0], slots[1], w.visit); err != nil {
			return nil, measure.Coverage{}, err
		}
	}
	registers := c.registers
	lost := len(w.data.Lost)
	for range rootAttempts {
		w.data.Lost = w.data.Lost[:lost] // a guest that ends takes its tables with it
		if err := w.cpus(registers); err != nil || len(w.data.Foreign)+len(w.data.Guests)+len(w.data.Lost) == lost || c.machine == nil {
			if err != nil {
				return nil, measure.Coverage{}, err
			}
			break
		}
		if registers, w.data.Absent, err = c.readRegisters(); err != nil {
			return nil, measure.Coverage{}, err
		}
	}
	for _, list := range []*[]mappedRange{&w.data.Executable, &w.data.Writable, &w.data.User, &w.data.Aliases, &w.data.Guests} {
		for i := range *list {
			(*list)[i].Symbol = c.symbol(mem.Virt((*list)[i].Start))
		}
	}
	return w.data, measure.Coverage{Objects: w.pages, Bytes: w.mapped}, nil
}

// xenWalk gathers ranges during walks.
type xenWalk struct {
	*collector
	data          xenPageTables
	protected     mem.Extent   // text and read-only data
	image         []mem.Extent // all that is Xen's alone
	pages, mapped int64
	err           error
}

// walk visits the mappings of entries of a top table.
func (w *xenWalk) walk(space *paging.Space, first, end int, visit func(paging.Mapping) bool) error {
	from, to := slotRange(first, end)
	err := space.Walk(from, to, visit, func(from, to mem.Virt, err error) {
		if len(w.data.Lost) < 100 {
			w.data.Lost = append(w.data.Lost, fmt.Sprintf("[%v, %v]: %v", from, to, err))
		}
	})
	return errors.Join(err, w.err, w.ctx.Err())
}

func (w *xenWalk) visit(m paging.Mapping) bool {
	w.pages++
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
	if writable && overlap(w.protected, m) {
		w.add(&w.data.Aliases, m)
	}
	return w.err == nil && w.ctx.Err() == nil
}

// overlap reports whether a mapping reaches memory.
func overlap(e mem.Extent, m paging.Mapping) bool {
	return m.Phys < e.End() && uint64(m.Phys)+m.Size > uint64(e.Start)
}

// add appends a page to a list, or to its last range if it continues that in
// both address spaces.
func (w *xenWalk) add(list *[]mappedRange, m paging.Mapping) {
	if n := len(*list); n > 0 {
		l := &(*list)[n-1]
		if l.Start+address(l.Size) == address(m.Virt) && uint64(l.Phys)+l.Size == uint64(m.Phys) {
			l.Size += m.Size
			return
		}
		if n == maxRanges {
			w.err = errTooManyRanges
			return
		}
	}
	*list = append(*list, mappedRange{Start: address(m.Virt), Size: m.Size, Phys: m.Phys})
}

// cpus looks at the tables that the CPUs run on: a guest's, with Xen's part in
// them, or with XPTI a part of that part. What is found counts if it is there
// each time, with registers read anew: a guest may go on while its tables are
// read.
func (w *xenWalk) cpus(registers []mem.Registers) error {
	w.data.Foreign, w.data.Guests, w.data.Truncated = nil, nil, 0
	own := w.xen.Space
	var want, have [mem.PageSize]byte
	if err := own.Memory().ReadPhys(want[:], own.Root()); err != nil {
		return err
	}
	seen := map[mem.Phys]bool{own.Root(): true}
	for _, r := range registers {
		cpu, err := paging.NewSpace(own.Memory(), &r)
		if err != nil {
			return fmt.Errorf("CPU %d: %w", r.CPU, err)
		}
		if seen[cpu.Root()] {
			continue
		}
		seen[cpu.Root()] = true
		if err := own.Memory().ReadPhys(have[:], cpu.Root()); err != nil {
			return fmt.Errorf("CPU %d: %w", r.CPU, err)
		}
		if err := w.cpu(r, cpu, want[:], have[:]); err != nil {
			return fmt.Errorf("CPU %d: %w", r.CPU, err)
		}
	}
	return nil
}

func (w *xenWalk) cpu(r mem.Registers, cpu *paging.Space, want, have []byte) error {
	for slot := xenSlotFirst; slot < xenSlotEnd; slot++ {
		wanted, got := entryAt(want, slot), entryAt(have, slot)
		same := got&1 == 0 || wanted&^volatileBits == got&^volatileBits
		switch {
		case same:
		case slot == xenSlotLinear:
			same = got&entryFrame == uint64(cpu.Root())
		case slot == xenSlotPerDomain:
			if err := w.walk(cpu, slot, slot+1, w.visit); err != nil {
				return err
			}
			same = true
		default:
			var err error
			if same, err = w.mapsLess(cpu, slot); err != nil {
				return err
			}
		}
		if !same {
			w.data.Foreign = append(w.data.Foreign, foreignRoot{CPU: r.CPU, Index: slot, Have: got, Want: wanted})
		}
	}
	return w.guest(cpu)
}

// entryFrame are the bits of an entry that say where it leads.
const entryFrame = 0x000f_ffff_ffff_f000

// mapsLess reports whether every page that a CPU's tables map in an entry is the
// one that Xen's have there, with no more permissions.
func (w *xenWalk) mapsLess(cpu *paging.Space, slot int) (bool, error) {
	same := true
	err := w.walk(cpu, slot, slot+1, func(m paging.Mapping) bool {
		for off := uint64(0); same && off < m.Size; {
			k, err := w.space.Translate(m.Virt + mem.Virt(off))
			at := uint64(m.Virt-k.Virt) + off // into Xen's page
			more := m.Flags&^k.Flags&(paging.Writable|paging.User) != 0 || k.Flags&^m.Flags&paging.NoExecute != 0
			same = err == nil && !more && k.Phys+mem.Phys(at) == m.Phys+mem.Phys(off)
			off += max(k.Size-min(at, k.Size), mem.PageSize)
		}
		return same
	})
	return same, err
}

// guest looks for mappings of Xen's image in the guest's part of the tables.
func (w *xenWalk) guest(cpu *paging.Space) error {
	pages := 0
	visit := func(m paging.Mapping) bool {
		if slices.ContainsFunc(w.image, func(e mem.Extent) bool { return overlap(e, m) }) {
			w.add(&w.data.Guests, m)
		}
		pages++
		return pages < maxGuestPages && w.err == nil && w.ctx.Err() == nil
	}
	for _, slots := range [][2]int{{0, xenSlotFirst}, {xenSlotEnd, 512}} {
		if err := w.walk(cpu, slots[0], slots[1], visit); err != nil {
			return err
		}
	}
	w.pages += int64(pages)
	if pages >= maxGuestPages {
		w.data.Truncated++
	}
	return nil
}
