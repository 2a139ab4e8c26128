package qemu

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Places remembers where a QEMU process keeps the registers of its virtual CPUs,
// so that those of system calls are read without stopping the machine. The device
// state of one stop says what the registers hold; they are then looked for in the
// memory of the process, and are where, for each CPU, they are found once. The
// zero value remembers nothing yet. It is for one machine, may be kept as long as
// the caller likes, and is safe for concurrent use.
type Places struct {
	mu    sync.Mutex
	of    string    // the process and the threads of its CPUs
	cpus  []place   // of all CPUs, or none
	again time.Time // not sought before
}

// place is where QEMU has the registers of a CPU (target/i386/cpu.h, struct
// CPUX86State; the order of members below is that of QEMU 2.0 to 11).
type place struct {
	cpu    int
	tables uint64 // gdt.base: struct SegmentCache gdt, idt; u64 cr[5]. Before: u32 hflags, hflags2; SegmentCache segs[6], ldt, tr
	calls  uint64 // sysenter_cs: u32 and padding; u64 sysenter_esp, sysenter_eip, star, vm_hsave, lstar, cstar, fmask
}

const (
	tablesSize = 80
	callsSize  = 64
	lstarAt    = 40 // of calls
	hsaveAt    = 32 // of calls

	// SegmentCache has u32 selector and padding, u64 base, u32 limit, flags.
	segmentCache = 24
	beforeTables = 8 + 8*segmentCache + 8 // hflags to the GDT's selector
	codeAt       = 8 + 1*segmentCache     // of hflags: R_CS
	fsAt         = 8 + 4*segmentCache
	gsAt         = 8 + 5*segmentCache
	ldtAt        = 8 + 6*segmentCache
	trAt         = 8 + 7*segmentCache

	// maxBetween bounds how far calls is behind tables, in bytes: between them are
	// the states of the FPU and the vector units, 6 KiB in QEMU 7.2.
	maxBetween = 32 << 10

	// maxSought bounds the memory that is searched; 100 to 200 MiB are usual.
	maxSought = 1 << 30
	// maxMatches bounds the places looked at: as many as there are CPUs, usually.
	maxMatches = 2 * maxCPUs

	searchAgain = 5 * time.Minute
)

var errNoPlaces = errors.New("where QEMU keeps the registers of its CPUs is not known")

// Remember has the VM use, and fill, what is known of earlier openings.
func (vm *VM) Remember(places *Places) { vm.places = places }

// placed reads the registers of system calls where they are known to be. What the
// monitor just showed must be beside them: that is the same CPU's, and current,
// since to show it QEMU fetched all registers from KVM, if it has one.
func (vm *VM) placed(ctx context.Context, shown []mem.Registers) ([]mem.SystemCalls, error) {
	states, err := vm.readPlaces(ctx, shown)
	if err != nil {
		return nil, err
	}
	for _, s := range states {
		if s.hflags&(hfGuest|hfSVME) != 0 {
			return nil, fmt.Errorf("%w while CPU %d may run guests", errNoPlaces, s.regs.CPU)
		}
	}
	return callsOf(states), nil
}

// statesPlaced reads them of a machine that stands still.
func (vm *VM) statesPlaced(ctx context.Context, shown []mem.Registers) ([]cpuState, error) {
	states, err := vm.readPlaces(ctx, shown)
	if err != nil {
		return nil, err
	}
	for i := range states {
		if !states[i].sameStop(&shown[i]) {
			return nil, fmt.Errorf("%w: CPU %d has others", errNoPlaces, shown[i].CPU)
		}
	}
	return states, nil
}

func (vm *VM) readPlaces(ctx context.Context, shown []mem.Registers) ([]cpuState, error) {
	if vm.places == nil {
		return nil, errNoPlaces
	}
	of, err := vm.identity(ctx)
	if err != nil {
		return nil, err
	}
	vm.places.mu.Lock()
	defer vm.places.mu.Unlock()
	if len(vm.places.cpus) == 0 || vm.places.of != of || len(vm.places.cpus) != len(shown) {
		return nil, errNoPlaces
	}
	process, err := os.Open(fmt.Sprintf("/proc/%d/mem", vm.PID()))
	if err != nil {
		return nil, err
	}
	defer process.Close()
	var out []cpuState
	for i := range shown {
		k := slices.IndexFunc(vm.places.cpus, func(p place) bool { return p.cpu == shown[i].CPU })
		if k < 0 {
			return nil, errNoPlaces
		}
		s, err := vm.places.cpus[k].read(process, &shown[i])
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// read reads the registers of a CPU in one piece.
func (p place) read(process io.ReaderAt, shown *mem.Registers) (s cpuState, err error) {
	b := make([]byte, beforeTables+p.calls-p.tables+callsSize)
	if _, err := process.ReadAt(b, int64(p.tables-beforeTables)); err != nil {
		return s, err
	}
	if !tablesAre(b[beforeTables:], shown) {
		return s, fmt.Errorf("%w: CPU %d has other tables", errNoPlaces, p.cpu)
	}
	u64 := func(at int) uint64 { return binary.LittleEndian.Uint64(b[at:]) }
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
	segment := func(at int) mem.Segment {
		return mem.Segment{Selector: uint16(u32(at)), Base: mem.Virt(u64(at + 8)), Limit: u32(at + 16), Flags: u32(at+20) & shownFlags}
	}
	s.regs = mem.Registers{CPU: p.cpu, CS: segment(codeAt), LDT: segment(ldtAt), TR: segment(trAt),
		FSBase: segment(fsAt).Base, GSBase: segment(gsAt).Base, CR3: u64(beforeTables + 64)}
	s.hflags, s.hflags2 = u32(0), u32(4)
	calls := b[beforeTables+p.calls-p.tables:]
	s.calls = callsIn(calls, p.cpu)
	s.hostState = mem.Phys(binary.LittleEndian.Uint64(calls[hsaveAt:]))
	return s, nil
}

// sameStop reports whether what was read is, in all that is read, what the monitor
// showed of a machine that stood still: then the layout is what it is taken for.
func (s *cpuState) sameStop(r *mem.Registers) bool {
	return flagsDiffer(s.hflags, r) == "" && s.regs.CS == r.CS && s.regs.LDT == r.LDT && s.regs.TR == r.TR &&
		s.regs.FSBase == r.FSBase && s.regs.GSBase == r.GSBase && s.regs.CR3 == r.CR3
}

// tablesAre compares what the kernel sets once.
func tablesAre(b []byte, r *mem.Registers) bool {
	u64 := func(at int) uint64 { return binary.LittleEndian.Uint64(b[at:]) }
	u32 := func(at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
	return u64(0) == uint64(r.GDT.Base) && u32(8) == r.GDT.Limit && u64(24) == uint64(r.IDT.Base) && u32(32) == r.IDT.Limit &&
		u64(40) == r.CR0 && u64(72) == r.CR4
}

func callsIn(b []byte, cpu int) mem.SystemCalls {
	u64 := func(at int) uint64 { return binary.LittleEndian.Uint64(b[at:]) }
	return mem.SystemCalls{CPU: cpu, SysenterCS: uint64(binary.LittleEndian.Uint32(b)), SysenterESP: u64(8), SysenterEIP: u64(16),
		STAR: u64(24), LSTAR: u64(lstarAt), CSTAR: u64(48), FMASK: u64(56)}
}

// learn looks for the registers that a device state has. That it finds none is no
// error: the machine is stopped for them the next time too.
func (vm *VM) learn(ctx context.Context, state []byte) error {
	if vm.places == nil {
		return nil
	}
	of, err := vm.identity(ctx)
	if err != nil {
		return err
	}
	vm.places.mu.Lock()
	defer vm.places.mu.Unlock()
	if vm.places.of == of && (vm.places.cpus != nil || time.Now().Before(vm.places.again)) {
		return nil
	}
	vm.places.of, vm.places.cpus, vm.places.again = of, nil, time.Now().Add(searchAgain)
	cpus, err := parseDeviceState(state)
	if err != nil {
		return err
	}
	process, err := os.Open(fmt.Sprintf("/proc/%d/mem", vm.PID()))
	if err != nil {
		return err
	}
	defer process.Close()
	ranges, err := vm.ownMemory()
	if err != nil {
		return err
	}
	vm.places.cpus, err = findPlaces(process, ranges, cpus)
	return err
}

// findPlaces searches a process for the registers of CPUs. Each must be found
// once, all with the same layout.
func findPlaces(process io.ReaderAt, ranges []mem.Extent, cpus map[uint32]cpuState) ([]place, error) {
	patterns := make(map[string]bool)
	for _, c := range cpus {
		p := binary.LittleEndian.AppendUint64(nil, c.calls.LSTAR)
		p = binary.LittleEndian.AppendUint64(p, c.calls.CSTAR)
		patterns[string(binary.LittleEndian.AppendUint64(p, c.calls.FMASK))] = true
	}
	found := make(map[uint32][]place)
	buffer, matches := make([]byte, 1<<20), 0
	for _, r := range ranges {
		for at := uint64(r.Start); at < uint64(r.End()); {
			b := buffer[:min(uint64(len(buffer)), uint64(r.End())-at)]
			if n, err := process.ReadAt(b, int64(at)); err != nil {
				b = b[:n] // given back meanwhile
			}
			for pattern := range patterns {
				for i := range indexes(b, []byte(pattern)) {
					if matches++; matches > maxMatches {
						return nil, fmt.Errorf("%w: too much looks like it", errNoPlaces)
					}
					for _, p := range placesAt(process, at+uint64(i)-lstarAt, cpus) {
						found[uint32(p.cpu)] = append(found[uint32(p.cpu)], p)
					}
				}
			}
			// The next piece begins so that nothing is cut in two.
			at += max(uint64(len(b)), mem.PageSize)
			if at < uint64(r.End()) {
				at -= callsSize
			}
		}
	}
	var out []place
	for n := range cpus {
		all := found[n]
		if len(all) != 1 {
			return nil, fmt.Errorf("%w: those of CPU %d are in %d places", errNoPlaces, n, len(all))
		}
		if len(out) > 0 && out[0].calls-out[0].tables != all[0].calls-all[0].tables {
			return nil, fmt.Errorf("%w: CPU %d has another layout", errNoPlaces, n)
		}
		out = append(out, all[0])
	}
	return out, nil
}

// placesAt returns the places that the registers of a CPU may be in, if those of
// system calls are at an address.
func placesAt(process io.ReaderAt, calls uint64, cpus map[uint32]cpuState) (out []place) {
	if calls < maxBetween {
		return nil
	}
	b, start := make([]byte, maxBetween+callsSize), calls-maxBetween
	if _, err := process.ReadAt(b, int64(start)); err != nil {
		return nil
	}
	for n, c := range cpus {
		if callsIn(b[maxBetween:], c.calls.CPU) != c.calls {
			continue
		}
		base := binary.LittleEndian.AppendUint64(nil, uint64(c.regs.GDT.Base))
		for i := range indexes(b[:maxBetween], base) {
			if i+tablesSize <= maxBetween && tablesAre(b[i:], &c.regs) {
				out = append(out, place{cpu: int(n), tables: start + uint64(i), calls: calls})
			}
		}
	}
	return out
}

// indexes yields where a pattern begins at a multiple of 8.
func indexes(b, pattern []byte) func(yield func(int) bool) {
	return func(yield func(int) bool) {
		for at := 0; ; {
			i := bytes.Index(b[at:], pattern)
			if i < 0 {
				return
			}
			if at += i; at%8 == 0 && !yield(at) {
				return
			}
			at++
		}
	}
}
