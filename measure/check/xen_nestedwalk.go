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

// roots are the tops of the tables of a domain and its CPUs, each once.
func (n *xenNested) roots() []mem.Phys {
	out := []mem.Phys{n.Root}
	for _, cpu := range n.CPUs {
		if !slices.Contains(out, cpu.Root) {
			out = append(out, cpu.Root)
		}
	}
	return out
}

// findTables notes every table, and what of the tables is odd.
func (r *nestedReader) findTables(n *xenNested) error {
	odd := func(from uint64, says string) error {
		if len(n.Odd) == maxStrays {
			return errCut
		}
		n.Odd = append(n.Odd, nestedOddity{address(from), says})
		return nil
	}
	for _, root := range n.roots() {
		err := paging.WalkTree(r.xen.Space.Memory(), root, paging.Tree{
			Table: func(t paging.Table) error {
				n.Tables++
				r.tables = append(r.tables, t.Phys)
				if says := r.table(t); says != "" && r.stays(t.At, t.Entry) {
					return errors.Join(odd(0, says), r.ctx.Err())
				}
				return r.ctx.Err()
			},
			Odd: func(from uint64, err error) error { return odd(from, err.Error()) },
		})
		if n.cut(err) != nil {
			return err
		}
	}
	return nil
}

// table says what is odd about a nested table; empty if nothing is.
func (r *nestedReader) table(t paging.Table) string {
	var info [1]xen.FrameInfo
	if err := r.frames.Of(info[:], t.Phys); err != nil {
		return err.Error()
	}
	if r.frames.NestedLevel(info[0]) != t.Level {
		return fmt.Sprintf("Xen does not keep a nested page table of level %d at %v (count %#x, type %#x, owner %v)",
			t.Level, t.Phys, info[0].Count, info[0].Type, info[0].Owner)
	}
	return ""
}

// stays reports whether an entry still is what it was when the account of what it
// leads to was not as it should be. Xen takes memory out of nested tables before
// it gives that to others: an entry that changed meanwhile says nothing.
func (r *nestedReader) stays(at mem.Phys, entry uint64) bool {
	if at == 0 {
		return true
	}
	now, err := mem.U64(r.xen.Space.Memory(), at)
	return err != nil || now&^volatileBits == entry&^volatileBits
}

// findStrays looks at each frame that is mapped.
func (r *nestedReader) findStrays(d *xenDomain) error {
	n := d.Nested
	for _, root := range n.roots() {
		err := paging.WalkTree(r.xen.Space.Memory(), root, paging.Tree{Leaf: func(l paging.Leaf) error {
			n.Entries++
			n.Frames += int64(l.Size / mem.PageSize)
			if err := r.leaf(d, l); err != nil {
				return err
			}
			return r.ctx.Err()
		}})
		if n.cut(err) != nil {
			return err
		}
	}
	return nil
}

// cut notes that a walk ended because there was enough.
func (n *xenNested) cut(err error) error {
	if errors.Is(err, errCut) {
		n.Cut = true
		return nil
	}
	return err
}

// leaf looks up the frames of an entry, 2 MiB of them at a time.
func (r *nestedReader) leaf(d *xenDomain, l paging.Leaf) error {
	var infos [512]xen.FrameInfo
	for off := uint64(0); off < l.Size; {
		count := min(uint64(len(infos)), (l.Size-off)/mem.PageSize)
		if r.looked += int64(count); r.looked > maxFrames {
			return errTooManyFrames
		}
		s := nestedRange{Guest: address(l.From + off), Phys: l.Phys + mem.Phys(off), Size: mem.PageSize, Type: int(l.Entry >> 52 & 0x7f)}
		listed, held := r.frames.Of(infos[:count], s.Phys) == nil, r.held(s.Phys, count*mem.PageSize)
		off += count * mem.PageSize
		if !listed && !held { // as most of what is not RAM
			s.Size, s.Owner = count*mem.PageSize, ownerIO
			if r.stays(l.At, l.Entry) {
				if err := d.Nested.stray(s); err != nil {
					return err
				}
			}
			continue
		}
		stays := false
		for i := range count {
			s.Owner, s.Holds = ownerIO, ""
			if listed {
				s.Owner, s.Domain = r.owner(d, infos[i])
			}
			if held {
				s.Holds = r.holds(s.Phys)
			}
			if s.Owner != ownerSelf || s.Holds != "" {
				if stays = stays || r.stays(l.At, l.Entry); !stays {
					break
				}
				if err := d.Nested.stray(s); err != nil {
					return err
				}
			}
			s.Guest += mem.PageSize
			s.Phys += mem.PageSize
		}
	}
	return nil
}

// stray notes a page, or makes the last range longer.
func (n *xenNested) stray(s nestedRange) error {
	if i := len(n.Strays) - 1; i >= 0 {
		l := &n.Strays[i]
		if next := *l; next.Guest+address(l.Size) == s.Guest && next.Phys+mem.Phys(l.Size) == s.Phys && next.Type == s.Type &&
			next.Holds == s.Holds && next.Owner == s.Owner && next.Domain == s.Domain {
			l.Size += s.Size
			return nil
		}
	}
	if len(n.Strays) == maxStrays {
		return errCut
	}
	n.Strays = append(n.Strays, s)
	return nil
}

// held reports whether memory holds anything that holds would name.
func (r *nestedReader) held(at mem.Phys, size uint64) bool {
	within := func(tables []mem.Phys) bool {
		i, _ := slices.BinarySearch(tables, at)
		return i < len(tables) && uint64(tables[i]-at) < size
	}
	return within(r.tables) || within(r.own) || slices.ContainsFunc(r.extents, func(e heldExtent) bool {
		return e.Start < at+mem.Phys(size) && e.End() > at
	})
}

// holds says what of Xen's a frame holds, whoever has it.
func (r *nestedReader) holds(at mem.Phys) string {
	if _, found := slices.BinarySearch(r.tables, at); found {
		return holdsNested
	}
	if _, found := slices.BinarySearch(r.own, at); found {
		return holdsTables
	}
	i, _ := slices.BinarySearchFunc(r.extents, at, func(e heldExtent, at mem.Phys) int { return cmp.Compare(e.Start, at+1) })
	if i > 0 && r.extents[i-1].End() > at {
		return r.extents[i-1].holds
	}
	return ""
}

// owner says whose a frame is.
func (r *nestedReader) owner(d *xenDomain, i xen.FrameInfo) (owner string, domain uint16) {
	switch id, listed := r.domains[i.Owner]; {
	case i.Owner == 0:
		return ownerNone, 0
	case i.Owner == d.At && r.frames.Allocated(i):
		return ownerSelf, 0
	case i.Owner == d.At:
		return ownerReleased, 0
	case listed:
		return ownerDomain, id
	case r.special[i.Owner] != "":
		return r.special[i.Owner], 0
	}
	return ownerUnknown, 0
}
