package qemu

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// saveAreaPage is a host state page as VMRUN and VMSAVE leave it (AMD64 APM vol. 2,
// table B-2).
func saveAreaPage() []byte {
	page := make([]byte, mem.PageSize)
	u64 := func(at int, v uint64) { binary.LittleEndian.PutUint64(page[0x400+at:], v) }
	segment := func(at int, selector, attributes uint16, limit uint32, base uint64) {
		u64(at, uint64(selector)|uint64(attributes)<<16|uint64(limit)<<32)
		u64(at+8, base)
	}
	segment(0x10, 0x10, 0xa9b, 0xffffffff, 0)
	segment(0x50, 0, 0, 0, 0xffff88803dc00000)
	segment(0x60, 0, 0, 0x7f, 0xfffffe0000001000)
	segment(0x80, 0, 0, 0xfff, 0xfffffe0000000000)
	segment(0x90, 0x40, 0x8b, 0x4087, 0xfffffe0000003000)
	for at, v := range map[int]uint64{0xd0: 0x1d01, 0x148: 0x7506f0, 0x150: 0x5a7c000, 0x158: 0x80050033, 0x160: 0x400,
		0x178: 0xffffffffc0401055, 0x1d8: 0xffffc90000253c88, 0x208: 0xffffffff82000080, 0x200: 0x23_0010_0000_0000} {
		u64(at, v)
	}
	return page
}

// What the firmware's handler has of system management mode is never taken for the
// target's, of a machine that may run guests and of one that may not.
func TestRegistersOfSystemManagementMode(t *testing.T) {
	shown, err := ParseRegisters(strings.Replace(golden(t, "registers.txt"), "SMM=0", "SMM=1", 1))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{true, false} {
		for _, efer := range []uint64{mem.EFERLMA, mem.EFERLMA | mem.EFERSVME} {
			r := shown[i]
			r.EFER = efer
			got := own(&r, &cpuState{calls: mem.SystemCalls{CPU: i, LSTAR: 1}, hflags2: hf2GIF}, false, nil)
			if unread := got.regs.Unread() != "" && got.regs.CR3 == 0 && got.calls.LSTAR == 0; unread != want {
				t.Errorf("CPU %d, EFER %#x: %+v", i, efer, got)
			}
		}
	}
}

// What a guest has is never taken for the target's own.
func TestOwnRegistersOfACPUInAGuest(t *testing.T) {
	shown := mem.Registers{CPU: 1, EFER: mem.EFERSVME | mem.EFERLMA, CR3: 0x1000, LDT: mem.Segment{Selector: 0x66}, DR: [8]uint64{0x10, 0, 0, 0, 0, 0, 0, 0x3}}
	guests := mem.SystemCalls{CPU: 1, LSTAR: 0xbad}
	tests := map[string]struct {
		kvm            bool
		hflags, flags2 uint32
		efer           uint64
		unread, guest  bool
	}{
		"not virtualizing":      {hflags: 0, efer: mem.EFERLMA},
		"outside":               {flags2: hf2GIF, efer: shown.EFER},
		"between":               {efer: shown.EFER, unread: true},
		"in a guest, no page":   {hflags: hfGuest, flags2: hf2GIF, efer: shown.EFER, unread: true, guest: true},
		"in a guest, under KVM": {kvm: true, hflags: hfGuest, flags2: hf2GIF, efer: shown.EFER, unread: true, guest: true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := shown
			r.EFER = tt.efer
			got := own(&r, &cpuState{calls: guests, hflags: tt.hflags, hflags2: tt.flags2}, tt.kvm, keptPages{}.read)
			if (got.regs.Unread() != "") != tt.unread || got.regs.InGuest() != tt.guest || got.regs.CPU != 1 {
				t.Fatalf("%+v", got.regs)
			}
			if unread := got.regs.CR3 == 0 && got.calls.LSTAR == 0; unread != tt.unread {
				t.Errorf("registers %+v, %+v", got.regs, got.calls)
			}
		})
	}
}

func TestParseSaveArea(t *testing.T) {
	got := mem.ParseSaveArea(saveAreaPage())
	want := mem.SaveArea{
		Registers: mem.Registers{RIP: 0xffffffffc0401055, RSP: 0xffffc90000253c88, CR0: 0x80050033, CR3: 0x5a7c000, CR4: 0x7506f0, EFER: 0x1d01,
			GSBase: 0xffff88803dc00000, IDT: mem.Table{Base: 0xfffffe0000000000, Limit: 0xfff}, GDT: mem.Table{Base: 0xfffffe0000001000, Limit: 0x7f},
			TR: mem.Segment{Selector: 0x40, Base: 0xfffffe0000003000, Limit: 0x4087, Flags: 0x8b00},
			CS: mem.Segment{Selector: 0x10, Limit: 0xffffffff, Flags: 0xa09b00}, DR: [8]uint64{7: 0x400}},
		SystemCalls: mem.SystemCalls{STAR: 0x23_0010_0000_0000, LSTAR: 0xffffffff82000080},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
