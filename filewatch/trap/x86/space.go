// Package x86 walks the page tables of an x86-64 guest over its physical
// memory, for one stop of a CPU at a time.
package x86

import (
	"encoding/binary"
)

// Bits of a page table entry (Intel SDM vol. 3A, 4.5, table 4-20; AMD APM
// vol. 2, 5.4).
const (
	present  = 1 << 0
	large    = 1 << 7
	addrMask = 0x000f_ffff_ffff_f000
	la57     = 1 << 12 // CR4.LA57, SDM vol. 3A, 2.5
)

const pageSize = 1 << 12

// cacheSize is how many translations one stop remembers. A path decode touches
// a few dozen pages.
const cacheSize = 64

// Space translates and reads one address space. The zero value with Phys set
// is ready for Load. It is not safe for concurrent use.
type Space struct {
	// Phys gives the bytes of guest-physical memory from addr on, as many as
	// lie together and at least one, or nil where there is no RAM. Device
	// memory is not RAM.
	Phys func(addr uint64) []byte

	root  uint64
	top   int // the level of the root table, 4 or 5
	pages [cacheSize]page
}

type page struct {
	virt  uint64 // of the page, with bit 0 set when the entry is valid
	bytes []byte // pageSize of them
}

// Load makes cr3 the address space. Translations of before are forgotten: the
// guest may have changed its tables.
func (s *Space) Load(cr3, cr4 uint64) {
	s.root, s.top = cr3&addrMask, 4
	if cr4&la57 != 0 {
		s.top = 5
	}
	for i := range s.pages {
		s.pages[i].virt = 0
	}
}

// Read implements trap.Memory.
func (s *Space) Read(addr uint64, p []byte) bool {
	for len(p) > 0 {
		b := s.page(addr)
		if b == nil {
			return false
		}
		n := copy(p, b[addr%pageSize:])
		p = p[n:]
		if addr += uint64(n); addr == 0 {
			return len(p) == 0
		}
	}
	return true
}

func (s *Space) page(addr uint64) []byte {
	virt := addr &^ (pageSize - 1)
	slot := &s.pages[(virt/pageSize)%cacheSize]
	if slot.virt == virt|1 {
		return slot.bytes
	}
	phys, ok := s.Translate(virt)
	if !ok {
		return nil
	}
	b := s.Phys(phys)
	if len(b) < pageSize {
		return nil
	}
	slot.virt, slot.bytes = virt|1, b[:pageSize]
	return slot.bytes
}

// Translate walks the tables from the root. Four or five steps, whatever they
// contain.
func (s *Space) Translate(virt uint64) (phys uint64, ok bool) {
	table := s.root
	for level := s.top; level >= 1; level-- {
		shift := 12 + 9*uint(level-1)
		b := s.Phys(table + (virt>>shift&511)*8)
		if len(b) < 8 {
			return 0, false
		}
		entry := binary.LittleEndian.Uint64(b)
		if entry&present == 0 {
			return 0, false
		}
		if level == 1 || entry&large != 0 && level <= 3 {
			size := uint64(1) << shift
			return entry&addrMask&^(size-1) | virt&(size-1), true
		}
		table = entry & addrMask
	}
	return 0, false
}
