package qemu

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// cpuSectionOf writes a CPU's section the way QEMU 7.2 does, field by field, and
// what follows it: extra registers, then its footer.
func cpuSectionOf(section uint32, version uint32, r *mem.Registers, calls *mem.SystemCalls, pat uint64) []byte {
	var b bytes.Buffer
	put := func(values ...any) {
		for _, v := range values {
			if err := binary.Write(&b, binary.BigEndian, v); err != nil {
				panic(err)
			}
		}
	}
	segment := func(s mem.Segment) { put(uint32(s.Selector), uint64(s.Base), s.Limit, s.Flags|0xf) }
	put(uint8(sectionFull), section, cpuName, uint32(r.CPU), version)
	put([4]uint64{1, 2, 3, 4}, r.RSP, [11]uint64{}, r.RIP, r.RFLAGS, hflagsOf(r), [4]uint16{}, [80]byte{})
	for _, s := range []mem.Segment{{}, r.CS, {}, {}, {Base: r.FSBase}, {Base: r.GSBase}, r.LDT, r.TR} {
		segment(s)
	}
	segment(mem.Segment{Base: r.GDT.Base, Limit: r.GDT.Limit})
	segment(mem.Segment{Base: r.IDT.Base, Limit: r.IDT.Limit})
	put(uint32(calls.SysenterCS), calls.SysenterESP, calls.SysenterEIP, r.CR0, r.CR2, r.CR3, r.CR4, r.DR)
	put(int32(-1), uint32(0x1f80), [256]byte{}, r.EFER, calls.STAR, calls.LSTAR, calls.CSTAR, calls.FMASK)
	put(uint64(0), uint32(0x30000), pat, uint32(hf2GIF), uint64(hostStatePage), [1188]byte{}, uint8(sectionFooter), section)
	return b.Bytes()
}

const linuxPAT = 0x0407050600070106

// shownState is what the monitor shows of two CPUs and a stream that goes with it.
func shownState(t testing.TB) ([]mem.Registers, []mem.SystemCalls, [][]byte) {
	shown, err := ParseRegisters(golden(t, "registers.txt"))
	if err != nil {
		t.Fatal(err)
	}
	sections := [][]byte{binary.BigEndian.AppendUint32([]byte("QEVM"), stateVersion)}
	var calls []mem.SystemCalls
	for i := range shown {
		c := mem.SystemCalls{CPU: i, STAR: 0x23_0010_0000_0000, LSTAR: 0xffffffff81c00080, CSTAR: 0xffffffff81c019b0, FMASK: 0x257fd5,
			SysenterCS: 0x10, SysenterESP: uint64(shown[i].TR.Base), SysenterEIP: 0xffffffff81c018f0}
		calls = append(calls, c)
		sections = append(sections, cpuSectionOf(uint32(7+i), cpuVersion, &shown[i], &c, linuxPAT))
	}
	return shown, calls, sections
}

func TestReadsSystemCallsFromDeviceState(t *testing.T) {
	shown, want, sections := shownState(t)
	for _, sameStop := range []bool{false, true} {
		got, err := believed(bytes.Join(sections, nil), shown, sameStop)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, callsOf(got)); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		if got[1].hostState != hostStatePage || got[1].hflags2 != hf2GIF || got[1].hflags != hflagsOf(&shown[1]) {
			t.Errorf("%+v", got[1])
		}
	}
	shown[1].CR3 += 0x1000 // another process runs by now
	if _, err := believed(bytes.Join(sections, nil), shown, false); err != nil {
		t.Errorf("a CPU that runs: %v", err)
	}
	if _, err := believed(bytes.Join(sections, nil), shown, true); !errors.Is(err, ErrNoDeviceState) {
		t.Errorf("another CR3 at one stop: %v", err)
	}
}

// A stream that is not exactly what is expected gives no answer.
func TestRefusesOtherDeviceState(t *testing.T) {
	shown, calls, sections := shownState(t)
	section := func(change func(r *mem.Registers, c *mem.SystemCalls)) []byte {
		r, c := shown[1], calls[1]
		change(&r, &c)
		return cpuSectionOf(8, cpuVersion, &r, &c, linuxPAT)
	}
	tests := map[string][][]byte{
		"nothing":         {},
		"not a stream":    {[]byte("QEMU, no magic"), sections[1], sections[2]},
		"another version": {sections[0], sections[1], cpuSectionOf(8, 13, &shown[1], &calls[1], linuxPAT)},
		"one CPU":         {sections[0], sections[1]},
		"a CPU too many":  {sections[0], sections[1], sections[2], section(func(r *mem.Registers, _ *mem.SystemCalls) { r.CPU = 2 })},
		"another CR4":     {sections[0], sections[1], section(func(r *mem.Registers, _ *mem.SystemCalls) { r.CR4 ^= mem.CR4SMEP })},
		"another table":   {sections[0], sections[1], section(func(r *mem.Registers, _ *mem.SystemCalls) { r.IDT.Base += 0x1000 })},
		"no such PAT":     {sections[0], sections[1], cpuSectionOf(8, cpuVersion, &shown[1], &calls[1], linuxPAT<<2)},
		"a field more":    {sections[0], sections[1], slices.Insert(slices.Clone(sections[2]), 300, make([]byte, 8)...)},
		"a field less":    {sections[0], sections[1], slices.Delete(slices.Clone(sections[2]), 300, 308)},
		"no footer":       {sections[0], sections[1], sections[2][:len(sections[2])-5]},
		"cut short":       {sections[0], sections[1], sections[2][:400]},
		// A guest writes into a device's buffer what looks like a clean CPU.
		"a planted CPU": {sections[0], sections[1], section(func(_ *mem.Registers, c *mem.SystemCalls) { c.LSTAR = 0xffffffffc0000000 }), []byte("buffer"), sections[2]},
	}
	for name, parts := range tests {
		if got, err := believed(bytes.Join(parts, nil), shown, false); !errors.Is(err, ErrNoDeviceState) || got != nil {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func FuzzParseDeviceState(f *testing.F) {
	_, _, sections := shownState(f)
	f.Add(bytes.Join(sections, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if cpus, err := parseDeviceState(b); (err == nil) == (len(cpus) == 0) {
			t.Fatalf("%d CPUs and error %v", len(cpus), err)
		}
	})
}
