package check

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/plumbline-sec/plumbline/measure/kernel/xen"
	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/paging"
)

// xenDomain is a domain and, of a hardware-assisted one, its nested page tables.
type xenDomain struct {
	xen.Domain
	Nested *xenNested `json:"nested,omitempty"`
	Unread string     `json:"unread,omitempty"` // why there are no nested tables
}

// xenNested are the facts of the nested page tables of a domain: what its own
// tables map, and those that its CPUs run on where these are others.
type xenNested struct {
	xen.Assisted
	Tables  int            `json:"tables"`
	Entries int64          `json:"entries"`          // that map a page, of any size
	Frames  int64          `json:"frames"`           // that these map, of 4 KiB
	Strays  []nestedRange  `json:"strays,omitempty"` // those that are not the domain's
	Odd     []nestedOddity `json:"odd,omitempty"`
	Cut     bool           `json:"cut,omitempty"` // there are more than maxStrays of either
}

// maxStrays bounds how much out of place is kept of a domain.
const maxStrays = 1000

// errCut ends a walk that has found enough.
var errCut = errors.New("too much out of place")

// nestedRange is memory that is mapped to a domain, and what Xen has it for.
type nestedRange struct {
	Guest  address  `json:"guest"` // where the domain has it
	Phys   mem.Phys `json:"phys"`
	Size   uint64   `json:"size"` // bytes
	Type   int      `json:"type"` // that Xen gives the entry (asm/p2m.h, p2m_type_t)
	Holds  string   `json:"holds,omitempty"`
	Owner  string   `json:"owner"`
	Domain uint16   `json:"domain"` // whose it is, with ownerDomain
}

// What memory of Xen's a range reaches, and whose it is by the frame table.
const (
	holdsImage  = "image"       // text, read-only data or data
	holdsTables = "page tables" // that Xen runs on
	holdsNested = "nested page tables"
	holdsFrames = "frame table"
	holdsStates = "saved state" // where a CPU keeps Xen's registers while it runs a domain

	ownerSelf     = "self"     // it is the domain's own, beside what it holds
	ownerReleased = "released" // it was the domain's, which gave it back
	ownerNone     = "none"     // free, or Xen's
	ownerXen      = "xen"      // dom_xen: Xen's, shared with privileged domains
	ownerIO       = "io"       // dom_io, or not in the frame table: no RAM
	ownerShared   = "shared"   // dom_cow: pages that several domains have
	ownerDomain   = "domain"   // another domain
	ownerUnknown  = "unknown"  // of a domain that is not in the lists
)

// nestedOddity is a part of nested tables that is not as Xen makes them.
type nestedOddity struct {
	Guest address `json:"guest"`
	Says  string  `json:"says"`
}

// errEPT and others say why nested tables are not read.
var (
	errEPT    = errors.New("EPT of Intel processors is not read")
	errVendor = errors.New("whether they are EPT or nested tables is not known: the source does not show EFER")
	errShadow = errors.New("it has shadow page tables, which are not read")
)

// nestedReader reads the nested tables of domains.
type nestedReader struct {
	*collector
	frames  *xen.Frames
	domains map[mem.Virt]uint16 // by struct domain
	special map[mem.Virt]string // owners that are no domains
	extents []heldExtent        // sorted
	tables  []mem.Phys          // sorted: all nested page tables
	own     []mem.Phys          // sorted: Xen's own page tables
	looked  int64               // frames looked up
}

// heldExtent is memory of Xen's alone.
type heldExtent struct {
	mem.Extent
	holds string
}

// maxFrames bounds how many frames are looked up in a scan: 1 TiB of memory.
const maxFrames = 1 << 28

var errTooManyFrames = errors.New("the domains map more memory than a scan looks at")

// readNested adds the nested tables to domains, and reports whether something of
// them was not the domains' own.
func (c *collector) readNested(domains []xenDomain) (clean bool, err error) {
	if !slices.ContainsFunc(domains, func(d xenDomain) bool { return d.Assisted }) {
		return true, nil
	}
	r := nestedReader{collector: c, domains: make(map[mem.Virt]uint16), special: make(map[mem.Virt]string)}
	if r.frames, err = c.xen.Frames(); err != nil {
		return false, err
	}
	if err := r.prepare(domains); err != nil {
		return false, err
	}
	for i := range domains {
		if d := &domains[i]; d.Assisted {
			if d.Nested, err = r.open(d.Domain); err != nil {
				d.Unread = err.Error()
			}
		}
	}
	// What a table is must be known of all before it is known what entries reach.
	clean = true
	for i := range domains {
		if d := &domains[i]; d.Nested != nil {
			if err := r.findTables(d.Nested); err != nil {
				return false, err
			}
		}
	}
	slices.Sort(r.tables)
	for i := range domains {
		if d := &domains[i]; d.Nested != nil {
			if err := r.findStrays(d); err != nil {
				return false, err
			}
			clean = clean && len(d.Nested.Strays)+len(d.Nested.Odd) == 0
		}
		clean = clean && domains[i].Unread == ""
	}
	return clean, nil
}

// prepare finds what is Xen's alone, beside what the frame table says of it.
func (r *nestedReader) prepare(domains []xenDomain) error {
	image, err := r.xen.Kept()
	if err != nil {
		return err
	}
	for _, e := range image {
		r.extents = append(r.extents, heldExtent{e, holdsImage})
	}
	cpus, err := r.xen.CPUs()
	if err != nil {
		return err
	}
	for _, cpu := range cpus {
		if cpu.HostState != 0 {
			r.extents = append(r.extents, heldExtent{mem.Extent{Start: cpu.HostState, Size: mem.PageSize}, holdsStates})
		}
	}
	err = r.xen.Space.Walk(xen.FrameTable, xen.FrameTableEnd-1, func(m paging.Mapping) bool {
		r.extents = append(r.extents, heldExtent{mem.Extent{Start: m.Phys, Size: m.Size}, holdsFrames})
		return len(r.extents) <= maxRanges
	}, nil)
	if err == nil && len(r.extents) > maxRanges {
		err = fmt.Errorf("frame table: %w", errTooManyRanges)
	}
	if err != nil {
		return err
	}
	slices.SortFunc(r.extents, func(a, b heldExtent) int { return cmp.Compare(a.Start, b.Start) })
	err = paging.WalkTree(r.xen.Space.Memory(), r.xen.Space.Root(), paging.Tree{Table: func(t paging.Table) error {
		r.own = append(r.own, t.Phys)
		return r.ctx.Err()
	}})
	if err != nil {
		return err
	}
	slices.Sort(r.own)
	for name, owner := range map[string]string{"dom_xen": ownerXen, "dom_io": ownerIO, "dom_cow": ownerShared} {
		if at, ok := r.xen.Symbol(name); ok {
			if v, err := r.xen.Space.U64(at); err == nil && v != 0 {
				r.special[mem.Virt(v)] = owner
			}
		}
	}
	var info [1]xen.FrameInfo
	for _, d := range domains {
		// A struct domain is in Xen's heap: so says a frame table that is one.
		if err := r.frames.Of(info[:], mem.Phys(d.At-xen.DirectMap)); err != nil || !r.frames.XenHeap(info[0]) {
			return fmt.Errorf("%w: domain %d does not lie in Xen's heap, by the frame table (%v)", xen.ErrLayout, d.ID, err)
		}
		r.domains[d.At] = d.ID
	}
	return nil
}

// open finds the nested tables of a domain.
func (r *nestedReader) open(d xen.Domain) (*xenNested, error) {
	if !d.HAP {
		return nil, errShadow
	}
	if len(r.registers) == 0 {
		return nil, errVendor
	}
	for _, regs := range r.registers {
		switch {
		case !regs.Known("EFER"):
			return nil, errVendor
		case regs.EFER&mem.EFERSVME == 0:
			return nil, errEPT
		}
	}
	a, err := r.xen.Assisted(d, r.frames)
	if err != nil {
		return nil, err
	}
	return &xenNested{Assisted: *a}, nil
}
