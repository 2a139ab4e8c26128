package x86

import (
	"bytes"
	"encoding/binary"
	"testing"
)

// ram is a small physical memory from address 0.
type ram []byte

func (r ram) phys(addr uint64) []byte {
	if addr >= uint64(len(r)) {
		return nil
	}
	return r[addr:]
}

func (r ram) put(table, index, entry uint64) {
	binary.LittleEndian.PutUint64(r[table+index*8:], entry)
}

// Indices of 0xffff888000201000 + offset: 273, 0, 1, 1.
const virt = 0xffff_8880_0020_1000

// machine maps virt to 0x5000 and, 2 MiB further, a large page at 0.
func machine() (ram, *Space) {
	r := make(ram, 0x8000)
	r.put(0x1000, 273, 0x2000|1)
	r.put(0x2000, 0, 0x3000|1)
	r.put(0x3000, 1, 0x4000|1)
	r.put(0x3000, 2, 0x0|large|1)
	r.put(0x4000, 1, 0x5000|1)
	r.put(0x4000, 2, 0x7000|1)
	copy(r[0x5ff0:], "end of one page.")
	copy(r[0x7000:], "and of the next.")
	s := &Space{Phys: r.phys}
	s.Load(0x1000, 0)
	return r, s
}

func TestReadCrossesPages(t *testing.T) {
	_, s := machine()
	b := make([]byte, 32)
	if !s.Read(virt+0xff0, b) || string(b) != "end of one page.and of the next." {
		t.Errorf("%q", b)
	}
	if s.Read(virt+0x1ff0, b) {
		t.Error("read past the last mapped page")
	}
}

func TestLargePage(t *testing.T) {
	r, s := machine()
	b := make([]byte, 8)
	if !s.Read(virt+0x1f_f000+0x5ff0, b) || !bytes.Equal(b, r[0x5ff0:0x5ff8]) {
		t.Errorf("%q", b)
	}
}

func TestFiveLevels(t *testing.T) {
	r, s := machine()
	r.put(0x6000, 511, 0x1000|1)
	s.Load(0x6000|0xfff, la57)
	if !s.Read(virt, make([]byte, 8)) {
		t.Error("not mapped with 5 levels")
	}
	s.Load(0x6000, 0)
	if s.Read(virt, make([]byte, 8)) {
		t.Error("mapped with 4 levels from a 5-level root")
	}
}

func TestLoadForgets(t *testing.T) {
	r, s := machine()
	b := make([]byte, 1)
	if !s.Read(virt, b) {
		t.Fatal("not mapped")
	}
	r.put(0x4000, 1, 0)
	s.Load(0x1000, 0)
	if s.Read(virt, b) {
		t.Error("a translation outlived its table")
	}
}

func TestTablesThatLoopOrPointNowhereEnd(t *testing.T) {
	r, s := machine()
	for i := range uint64(512) {
		r.put(0x1000, i, 0x1000|1) // every entry is the table itself
	}
	s.Load(0x1000, 0)
	s.Read(virt, make([]byte, 64))
	for i := range uint64(512) {
		r.put(0x1000, i, addrMask|1)
	}
	s.Load(0x1000, 0)
	if s.Read(virt, make([]byte, 64)) {
		t.Error("read where there is no memory")
	}
	if s.Read(^uint64(0)-3, make([]byte, 64)) {
		t.Error("read past the end of the address space")
	}
}

func FuzzRead(f *testing.F) {
	r, _ := machine()
	f.Add([]byte(r), uint64(virt), uint64(0x1000), uint64(0))
	f.Fuzz(func(t *testing.T, mem []byte, addr, cr3, cr4 uint64) {
		s := &Space{Phys: ram(mem).phys}
		s.Load(cr3, cr4)
		s.Read(addr, make([]byte, 5000))
	})
}
