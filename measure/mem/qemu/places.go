package qemu

import (
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
// memory of the process, and are where, for each CPU, they are found once. Of a
// machine that runs guests of its own they are found in two steps: CPUs' host state
// pages, which stay, while it runs, and the rest beside them at the next stop. The
// zero value remembers nothing yet. It is for one machine, may be kept as long as
// the caller likes, and is safe for concurrent use.
type Places struct {
	mu    sync.Mutex
	of    string    // the process and the threads of its CPUs
	cpus  []place   // of all CPUs, or none
	near  []uint64  // where the calls of CPUs that run guests may be, until a stop tells
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
)

var errNoPlaces = errors.New("where QEMU keeps the registers of its CPUs is not known")

// Remember has the VM use, and fill, what is known of earlier openings.
func (vm *VM) Remember(places *Places) { vm.places = places }

// Known reports whether the places are known: from then on, while process and CPUs
// are the same, no device state is asked for.
func (p *Places) Known() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cpus != nil
}

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
	return states, sameStops(states, shown)
}

func (vm *VM) readPlaces(ctx context.Context, shown []mem.Registers) ([]cpuState, error) {
	o, err := vm.openPlaces(ctx)
	if err != nil {
		return nil, err
	}
	defer o.process.Close()
	if err := o.read(o.process); err != nil {
		return nil, err
	}
	return o.states(shown)
}

// openedPlaces are the places of all CPUs, open to be read.
type openedPlaces struct {
	process *os.File // its memory
	of      string   // the process and the threads of its CPUs
	cpus    []place
	raw     [][]byte // what was read, of each
}

// openPlaces opens them if they are known.
func (vm *VM) openPlaces(ctx context.Context) (*openedPlaces, error) {
	if vm.places == nil {
		return nil, errNoPlaces
	}
	of, err := vm.identity(ctx)
	if err != nil {
		return nil, err
	}
	vm.places.mu.Lock()
	defer vm.places.mu.Unlock()
	if len(vm.places.cpus) == 0 || vm.places.of != of {
		return nil, errNoPlaces
	}
	process, err := os.Open(fmt.Sprintf("/proc/%d/mem", vm.PID()))
	if err != nil {
		return nil, err
	}
	return &openedPlaces{process: process, of: of, cpus: slices.Clone(vm.places.cpus)}, nil
}

// read reads the registers of each CPU in one piece.
func (o *openedPlaces) read(process io.ReaderAt) error {
	o.raw = nil
	for _, p := range o.cpus {
		b := make([]byte, beforeTables+p.calls-p.tables+callsSize)
		if _, err := process.ReadAt(b, int64(p.tables-beforeTables)); err != nil {
			return err
		}
		o.raw = append(o.raw, b)
	}
	return nil
}

// states are what was read of the CPUs that the monitor shows, and of no others.
func (o *openedPlaces) states(shown []mem.Registers) ([]cpuState, error) {
	if len(o.cpus) != len(shown) {
		return nil, errNoPlaces
	}
	var out []cpuState
	for i := range shown {
		k := slices.IndexFunc(o.cpus, func(p place) bool { return p.cpu == shown[i].CPU })
		if k < 0 {
			return nil, errNoPlaces
		}
		if !tablesAre(o.raw[k][beforeTables:], &shown[i]) {
			return nil, fmt.Errorf("%w: CPU %d has other tables", errNoPlaces, shown[i].CPU)
		}
		out = append(out, o.cpus[k].state(o.raw[k]))
	}
	return out, nil
}

// state is what the bytes of a place say.
func (p place) state(b []byte) (s cpuState) {
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
	return s
}

// sameStops is an error unless what was read of each CPU is of the stop of which the
// monitor showed it.
func sameStops(states []cpuState, shown []mem.Registers) error {
	for i := range states {
		if !states[i].sameStop(&shown[i]) {
			return fmt.Errorf("%w: CPU %d has others", errNoPlaces, shown[i].CPU)
		}
	}
	return nil
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
