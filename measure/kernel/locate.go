package kernel

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/paging"
)

// The kernel image lies in one gigabyte of virtual addresses, wherever KASLR
// puts it (Documentation/x86/x86_64/mm.rst). linkBase is where it is linked
// with the default CONFIG_PHYSICAL_START, that is without KASLR.
const (
	imageFirst mem.Virt = 0xffff_ffff_8000_0000
	imageLast  mem.Virt = 0xffff_ffff_bfff_ffff
	linkBase   mem.Virt = 0xffff_ffff_8100_0000
)

// maxImage bounds the size of a kernel image in memory. Debian's are 45 MiB.
const maxImage = 256 << 20

// located is the kernel image as page tables show it.
type located struct {
	space *paging.Space
	base  mem.Virt // first page, which holds _text
	phys  mem.Phys
	end   mem.Virt // after the last page

	described bool // by the kernel itself, not by registers
}

// locate finds where the kernel image may be, the likeliest place first: the
// address spaces of the CPUs, as they are and, for those that show less or
// nothing, with bit 12 of CR3 clear.
//
// The lowest page mapped in the image's gigabyte is _text: the kernel unmaps
// what lies around itself (cleanup_highmap). With page-table isolation a CPU
// stopped in user mode runs on tables that hold the entry code only; its own
// tables are the page before (bit 12 of CR3, arch/x86/entry/calling.h). Without
// it that bit is part of an ordinary address, and the page before may hold
// anything. So both are looked at, and the profile's own validation decides.
//
// Without registers there is only the kernel's own word for where its tables are.
func locate(m mem.Reader, regs []mem.Registers) ([]*located, error) {
	if len(regs) == 0 {
		return locateDescribed(m)
	}
	var found []*located
	var seen notFound
	for i := range regs {
		space, err := paging.NewSpace(m, &regs[i])
		if err != nil {
			seen.add(&regs[i], err)
			continue
		}
		var errs []error
		for _, root := range slices.Compact([]mem.Phys{space.Root(), space.Root() &^ 0x1000}) {
			l, err := locateIn(paging.SpaceAt(m, root, space.Levels()))
			switch {
			case err != nil:
				errs = append(errs, fmt.Errorf("tables at %v: %w", root, err))
			case !slices.ContainsFunc(found, l.same):
				found = append(found, l)
			}
		}
		seen.add(&regs[i], errs...)
	}
	if len(found) == 0 {
		return nil, &seen
	}
	slices.SortStableFunc(found, func(a, b *located) int { return cmp.Compare(b.end-b.base, a.end-a.base) })
	return found[:min(len(found), maxPlaces)], nil
}

// maxPlaces bounds how many places are looked at in full.
const maxPlaces = 4

func (l *located) same(o *located) bool {
	return l.base == o.base && l.phys == o.phys && l.end == o.end
}

func locateIn(space *paging.Space) (*located, error) {
	var l located
	err := space.Walk(imageFirst, imageLast, func(p paging.Mapping) bool {
		if l.base == 0 {
			l.base, l.phys = p.Virt, p.Phys
		}
		if p.Virt-l.base > maxImage {
			return false
		}
		l.end = p.Virt + mem.Virt(p.Size)
		return true
	}, nil)
	switch {
	case err != nil:
		return nil, err
	case l.base == 0:
		_, err := space.Translate(linkBase)
		return nil, fmt.Errorf("nothing is mapped where the kernel's image goes: %w", err)
	case l.base%0x20_0000 != 0:
		return nil, fmt.Errorf("where the kernel's image goes the lowest page is at %v, which is no start of one", l.base)
	}
	l.space = space.Cached()
	return &l, nil
}

// read returns the image's memory from from to to. Pages that are not mapped,
// such as freed init sections, read as zeros, and so do those that a dump left out,
// as it does with free memory: the checks that need them miss them.
func (l *located) read(from, to mem.Virt) ([]byte, error) {
	if from < l.base || to < from || to > l.end {
		return nil, fmt.Errorf("[%v, %v) is not in the image [%v, %v)", from, to, l.base, l.end)
	}
	b := make([]byte, to-from)
	return b, l.readInto(b, from)
}

// readInto fills b with the image's memory from from on, as read does.
func (l *located) readInto(b []byte, from mem.Virt) error {
	to := from + mem.Virt(len(b))
	if from < l.base || to < from || to > l.end {
		return fmt.Errorf("[%v, %v) is not in the image [%v, %v)", from, to, l.base, l.end)
	}
	for at := from; at < to; {
		m, err := l.space.Translate(at)
		if err != nil {
			if !errors.Is(err, paging.ErrNotPresent) {
				return err
			}
			next := min(to, at&^(mem.PageSize-1)+mem.PageSize)
			clear(b[at-from : next-from])
			at = next
			continue
		}
		stop := min(to, m.Virt+mem.Virt(m.Size))
		if err := l.readPages(b[at-from:stop-from], at); err != nil {
			return err
		}
		at = stop
	}
	return nil
}

// readPages fills b with what is mapped from at on.
func (l *located) readPages(b []byte, at mem.Virt) error {
	if err := l.space.Read(b, at); !errors.Is(err, mem.ErrNotMapped) {
		return err
	}
	for len(b) > 0 {
		page := b[:min(uint64(len(b)), mem.PageSize-uint64(at)%mem.PageSize)]
		if err := l.space.Read(page, at); errors.Is(err, mem.ErrNotMapped) {
			clear(page)
		} else if err != nil {
			return err
		}
		b, at = b[len(page):], at+mem.Virt(len(page))
	}
	return nil
}
