package qemu

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// envAt writes the registers of a CPU into the memory of a process as QEMU 7.2 has
// them: the tables, between bytes later the rest.
func envAt(process []byte, at, between int, r *mem.Registers, c *mem.SystemCalls) {
	u64 := func(at int, v uint64) { binary.LittleEndian.PutUint64(process[at:], v) }
	u32 := func(at int, v uint32) { binary.LittleEndian.PutUint32(process[at:], v) }
	for k, segment := range []mem.Segment{{}, r.CS, {}, {}, {Base: r.FSBase}, {Base: r.GSBase}, r.LDT, r.TR} {
		cache := at - 8 - 8*segmentCache + k*segmentCache
		u32(cache, uint32(segment.Selector))
		u64(cache+8, uint64(segment.Base))
		u32(cache+16, segment.Limit)
		u32(cache+20, segment.Flags|0xf)
	}
	u32(at-beforeTables, hflagsOf(r))
	u32(at-beforeTables+4, hf2GIF)
	u64(at, uint64(r.GDT.Base))
	u32(at+8, r.GDT.Limit)
	u64(at+24, uint64(r.IDT.Base))
	u32(at+32, r.IDT.Limit)
	u64(at+40, r.CR0)
	u64(at+56, r.CR2)
	u64(at+64, r.CR3)
	u64(at+72, r.CR4)
	at += between
	u32(at, uint32(c.SysenterCS))
	for i, v := range []uint64{c.SysenterESP, c.SysenterEIP, c.STAR, hostStatePage, c.LSTAR, c.CSTAR, c.FMASK} {
		u64(at+8+8*i, v)
	}
}

const (
	envBetween    = 6 << 10
	hostStatePage = 0x7000
)

// hflagsOf is what QEMU has for a CPU that runs no guest.
func hflagsOf(r *mem.Registers) (flags uint32) {
	if r.CR0&cr0PE != 0 {
		flags |= hfPE
	}
	if r.EFER&mem.EFERLMA != 0 {
		flags |= hfLMA
	}
	if r.CR4&cr4OSFXSR != 0 {
		flags |= hfOSFXSR
	}
	return flags
}

// placesProcess is a process with the registers of two CPUs, the second across
// the end of what is read at once.
func placesProcess(t testing.TB) (process []byte, ranges []mem.Extent, shown []mem.Registers, calls []mem.SystemCalls, cpus map[uint32]cpuState) {
	shown, calls, _ = shownState(t)
	process = make([]byte, 3<<20)
	ranges = []mem.Extent{{Start: 0x1000, Size: 0x1000}, {Start: 0x10000, Size: 3<<20 - 0x10000}}
	cpus = make(map[uint32]cpuState)
	for i, at := range []int{0x40000, 0x10000 + 1<<20 - envBetween - lstarAt - 8} {
		envAt(process, at, envBetween, &shown[i], &calls[i])
		cpus[uint32(i)] = cpuState{regs: shown[i], calls: calls[i], hostState: hostStatePage}
	}
	return process, ranges, shown, calls, cpus
}

func TestReadsSystemCallsWhereTheyAre(t *testing.T) {
	process, ranges, shown, calls, cpus := placesProcess(t)
	memory := bytes.NewReader(process)
	places, err := findPlaces(memory, ranges, cpus)
	if err != nil || len(places) != 2 {
		t.Fatalf("%d places: %v", len(places), err)
	}
	calls[1].LSTAR = 0xffffffffc0001000 // a hook, set later
	envAt(process, int(places[0].tables), envBetween, &shown[places[0].cpu], &calls[places[0].cpu])
	envAt(process, int(places[1].tables), envBetween, &shown[places[1].cpu], &calls[places[1].cpu])
	for _, p := range places {
		got, err := readPlace(memory, p, &shown[p.cpu])
		if diff := cmp.Diff(calls[p.cpu], got.calls); diff != "" || err != nil {
			t.Errorf("CPU %d (-want +got): %v\n%s", p.cpu, err, diff)
		}
		if !got.sameStop(&shown[p.cpu]) || got.hostState != hostStatePage || got.hflags2 != hf2GIF {
			t.Errorf("CPU %d: %+v", p.cpu, got)
		}
		for _, at := range []uint64{p.tables - beforeTables, p.tables - beforeTables + codeAt, p.tables - 8 - segmentCache} {
			process[at] ^= 0x80
			if got, err := readPlace(memory, p, &shown[p.cpu]); err != nil || got.sameStop(&shown[p.cpu]) {
				t.Errorf("CPU %d with another byte at %#x: %v", p.cpu, at, err)
			}
			process[at] ^= 0x80
		}
		other := shown[p.cpu]
		other.CR4 ^= 1 << 20
		if _, err := readPlace(memory, p, &other); !errors.Is(err, errNoPlaces) {
			t.Errorf("CPU %d whose CR4 the monitor shows otherwise: %v", p.cpu, err)
		}
	}
	if _, err := readPlace(bytes.NewReader(process[:0x1000]), places[0], &shown[0]); !errors.Is(err, io.EOF) {
		t.Errorf("memory that is gone: %v", err)
	}
}

func readPlace(process io.ReaderAt, p place, shown *mem.Registers) (cpuState, error) {
	o := openedPlaces{cpus: []place{p}}
	if err := o.read(process); err != nil {
		return cpuState{}, err
	}
	states, err := o.states([]mem.Registers{*shown})
	if err != nil {
		return cpuState{}, err
	}
	return states[0], nil
}

// A machine that runs guests: by the time its memory was searched, each CPU had
// other registers, but for the address of its host state page.
func TestFindsPlacesByHostState(t *testing.T) {
	process, ranges, _, _, cpus := placesProcess(t)
	pages := map[string]bool{string(binary.LittleEndian.AppendUint64(nil, hostStatePage)): true}
	binary.LittleEndian.PutUint64(process[2<<20:], hostStatePage) // such as one of the TLB's
	at, err := matches(bytes.NewReader(process), ranges, pages)
	if err != nil || len(at) != 3 {
		t.Fatalf("%x: %v", at, err)
	}
	for i := range at {
		at[i] -= hsaveAt
	}
	places, err := placesAmong(bytes.NewReader(process), at, cpus)
	if err != nil || len(places) != 2 {
		t.Fatalf("%d places: %v", len(places), err)
	}
	guest := cpus[1]
	guest.calls.LSTAR++
	cpus[1] = guest
	if places, err := placesAmong(bytes.NewReader(process), at, cpus); !errors.Is(err, errNoPlaces) {
		t.Errorf("a CPU with other registers at the stop: %v, %v", places, err)
	}
}

// What the guest can have QEMU keep somewhere may look like a CPU: then there is
// no telling which is.
func TestRefusesPlacesInDoubt(t *testing.T) {
	tests := map[string]func(process []byte, shown []mem.Registers, calls []mem.SystemCalls, cpus map[uint32]cpuState){
		"planted": func(process []byte, shown []mem.Registers, calls []mem.SystemCalls, _ map[uint32]cpuState) {
			envAt(process, 2<<20, envBetween, &shown[0], &calls[0])
		},
		"planted tables": func(process []byte, shown []mem.Registers, calls []mem.SystemCalls, _ map[uint32]cpuState) {
			copy(process[0x40000+128:], process[0x40000:0x40000+tablesSize])
		},
		"gone": func(process []byte, _ []mem.Registers, _ []mem.SystemCalls, _ map[uint32]cpuState) {
			clear(process[0x40000 : 0x40000+envBetween])
		},
		"another layout": func(process []byte, shown []mem.Registers, calls []mem.SystemCalls, _ map[uint32]cpuState) {
			clear(process[0x40000 : 0x40000+envBetween+callsSize])
			envAt(process, 0x40000, envBetween+8, &shown[0], &calls[0])
		},
		"CPUs alike": func(process []byte, shown []mem.Registers, calls []mem.SystemCalls, cpus map[uint32]cpuState) {
			calls[1], shown[1] = calls[0], shown[0]
			clear(process[0x80000:])
			envAt(process, 0x80000, envBetween, &shown[1], &calls[1])
			cpus[1] = cpuState{regs: shown[1], calls: calls[1], hostState: hostStatePage}
		},
		"everywhere": func(process []byte, _ []mem.Registers, calls []mem.SystemCalls, _ map[uint32]cpuState) {
			pattern := process[0x40000+envBetween+lstarAt:][:24]
			for at := 1 << 20; at < len(process)-24; at += 24 {
				copy(process[at:], pattern)
			}
		},
	}
	for name, damage := range tests {
		t.Run(name, func(t *testing.T) {
			process, ranges, shown, calls, cpus := placesProcess(t)
			damage(process, shown, calls, cpus)
			if places, err := findPlaces(bytes.NewReader(process), ranges, cpus); !errors.Is(err, errNoPlaces) || places != nil {
				t.Errorf("%v: %v", places, err)
			}
		})
	}
}

func TestPresentPages(t *testing.T) {
	pagemap := make([]byte, 8*8)
	for page, entry := range map[int]uint64{2: 1 << 63, 3: 1 << 62, 5: 1 << 63, 7: 1<<61 | 5} {
		binary.LittleEndian.PutUint64(pagemap[8*page:], entry)
	}
	got, err := present(bytes.NewReader(pagemap), mapping{start: 0x1000, end: 0x8000}, nil)
	want := []mem.Extent{{Start: 0x2000, Size: 0x2000}, {Start: 0x5000, Size: 0x1000}}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("(-want +got): %v\n%s", err, diff)
	}
	if _, err := present(bytes.NewReader(pagemap[:16]), mapping{start: 0x1000, end: 0x8000}, nil); err == nil {
		t.Error("a pagemap that ends early was taken")
	}
}
