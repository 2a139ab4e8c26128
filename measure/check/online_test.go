package check

import (
	"bytes"
	"context"
	"slices"
	"testing"

	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/mem/memtest"
	"github.com/plumbline-sec/plumbline/measure/paging"
)

// The machine of these tests has two CPUs, whose entry areas are the kernel's
// seventh and third. Each reading of its registers is the next of a list.
const (
	onlineBase   = 0xffff_ffff_8000_0000
	onlineMask   = onlineBase + 0x1000
	onlineArea   = 0x3b000 // bytes of an entry area
	tableOfFirst = mem.Virt(0xffff_fe00_0000_1000 + 7*onlineArea)
	tableOfOther = mem.Virt(0xffff_fe00_0000_1000 + 3*onlineArea)
)

type cpuMachine struct {
	stillMachine
	pages    memtest.Pages
	readings []func(*cpuMachine) []mem.Registers
	calls    []func() []mem.SystemCalls
}

func (m *cpuMachine) Registers(context.Context) ([]mem.Registers, error) {
	next := m.readings[0]
	if len(m.readings) > 1 {
		m.readings = m.readings[1:]
	}
	return next(m), nil
}

func (m *cpuMachine) SystemCalls(context.Context) ([]mem.SystemCalls, error) {
	next := m.calls[0]
	if len(m.calls) > 1 {
		m.calls = m.calls[1:]
	}
	return next(), nil
}

func (m *cpuMachine) online(mask uint64) { m.pages.WriteU64(onlineMask-onlineBase, mask) }

// cpuCollector makes a collector for it, with these CPUs on line.
func cpuCollector(t *testing.T, m *cpuMachine, mask uint64) *collector {
	t.Helper()
	m.pages = make(memtest.Pages)
	m.pages.WriteU64(0x10000+511*8, 0x11000|3) // one page of 1 GiB
	m.pages.WriteU64(0x11000+510*8, 0x83)
	m.online(mask)
	const offsets, count, random = onlineBase + 0x1100, onlineBase + 0x1200, 0x500
	m.pages.WriteU64(offsets-onlineBase, onlineBase+0x2000)
	m.pages.WriteU64(offsets+8-onlineBase, onlineBase+0x3000)
	m.pages.WriteU64(count-onlineBase, 2)
	m.pages.WriteU64(0x2000+random, 7)
	m.pages.WriteU64(0x3000+random, 3)
	number := &btf.Int{Name: "number", Size: 8}
	area := &btf.Struct{Name: "cpu_entry_area", Size: onlineArea, Members: []btf.Member{{Name: "gdt", Type: number}}}
	b, err := btf.NewBuilder([]btf.Type{area}, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := b.Marshal(nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	spec, err := btf.LoadSpecFromReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	space := paging.SpaceAt(m.pages, 0x10000, 4)
	return &collector{ctx: t.Context(), machine: m, space: space, profile: &kernel.Profile{
		Base: onlineBase, End: onlineBase + 0x10000, Space: space, Types: &kernel.Types{Spec: spec},
		Symbols: kernel.NewSymbols([]kernel.Symbol{
			{Addr: random, Kind: 'd', Name: "_cea_offset"}, {Addr: onlineBase, Kind: 'T', Name: "_text"}, {Addr: onlineMask, Kind: 'D', Name: "__cpu_online_mask"},
			{Addr: offsets, Kind: 'D', Name: "__per_cpu_offset"}, {Addr: count, Kind: 'D', Name: "nr_cpu_ids"}, {Addr: onlineBase + 0x8000, Kind: 'D', Name: "_end"},
		})}}
}

// started are the registers of a CPU that has; 0 of the VMM's is the kernel's
// second, as the VMM may number them.
func started(cpu int) mem.Registers {
	table := tableOfOther
	if cpu == 1 {
		table = tableOfFirst
	}
	return mem.Registers{CPU: cpu, CR0: 0x80050033, GDT: mem.Table{Base: table, Limit: 127}, TR: mem.Segment{Selector: 0x40}}
}

// starting are those on the way there.
var starting = map[string]mem.Registers{
	"after INIT":        {CPU: 1, CR0: 0x60000010, GDT: mem.Table{Limit: 0xffff}},
	"in real mode code": {CPU: 1, CR0: 0x60000011, GDT: mem.Table{Base: 0x98040, Limit: 31}},
	"in its first steps in 64-bit mode": {CPU: 1, CR0: 0x80050033,
		GDT: mem.Table{Base: 0xffff_8880_3ec0_a000, Limit: 127}},
	"with its table mapped, and no task state": {CPU: 1, CR0: 0x80050033, GDT: mem.Table{Base: tableOfFirst, Limit: 127}},
}

func TestLeavesOutStartingCPUs(t *testing.T) {
	for name, r := range starting {
		t.Run(name, func(t *testing.T) {
			again := func(*cpuMachine) []mem.Registers { return []mem.Registers{started(0), r} }
			c := cpuCollector(t, &cpuMachine{readings: []func(*cpuMachine) []mem.Registers{again}}, 2)
			c.registers = again(nil)
			c.leaveOut()
			if !slices.Equal(c.left, []int{1}) || len(c.registers) != 1 || c.registers[0].CPU != 0 {
				t.Errorf("left out %v, judged %+v", c.left, c.registers)
			}
		})
	}
}

// The same registers of a CPU that is on line are judged, and are findings; so
// are those of a CPU while the other is off line.
func TestKeepsCPUsOnLine(t *testing.T) {
	own := started(1)
	elsewhere := own
	elsewhere.GDT.Base = 0xffff_8880_0100_0000
	tests := map[string]struct {
		mask      uint64
		registers []mem.Registers
	}{
		"both on line":                       {3, []mem.Registers{started(0), own}},
		"a parked CPU":                       {2, []mem.Registers{started(0), own}},
		"another table":                      {3, []mem.Registers{started(0), elsewhere}},
		"another table, the other is parked": {1, []mem.Registers{started(0), elsewhere}},
		"two CPUs with the same table":       {3, []mem.Registers{own, {CPU: 0, CR0: own.CR0, GDT: own.GDT, TR: own.TR}}},
	}
	for name, r := range starting {
		tests[name] = struct {
			mask      uint64
			registers []mem.Registers
		}{3, []mem.Registers{started(0), r}}
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			again := func(*cpuMachine) []mem.Registers { return slices.Clone(tt.registers) }
			c := cpuCollector(t, &cpuMachine{readings: []func(*cpuMachine) []mem.Registers{again}}, tt.mask)
			c.registers = again(nil)
			c.leaveOut()
			if len(c.left) != 0 || !cmp.Equal(c.registers, tt.registers) {
				t.Errorf("left out %v, judged %+v", c.left, c.registers)
			}
		})
	}
}

// A CPU that comes on line while it is looked at is looked at again.
func TestLooksAgainAtCPUs(t *testing.T) {
	early := []mem.Registers{started(0), starting["after INIT"]}
	m := &cpuMachine{readings: []func(*cpuMachine) []mem.Registers{
		func(m *cpuMachine) []mem.Registers { m.online(3); return slices.Clone(early) },
		func(*cpuMachine) []mem.Registers { return []mem.Registers{started(0), started(1)} },
	}}
	c := cpuCollector(t, m, 2)
	c.registers = slices.Clone(early)
	c.leaveOut()
	if len(c.left) != 0 || len(c.registers) != 2 || c.registers[1].GDT.Base != tableOfFirst {
		t.Errorf("left out %v, judged %+v", c.left, c.registers)
	}
}

// The registers of system calls are written while a CPU comes on line.
func TestUnwrittenSystemCalls(t *testing.T) {
	written := func(cpu int) mem.SystemCalls {
		return mem.SystemCalls{CPU: cpu, STAR: 0x23001000000000, LSTAR: 0xffffffff81c00080, FMASK: 0x257fd5}
	}
	both := func() []mem.SystemCalls { return []mem.SystemCalls{written(0), written(1)} }
	one := func() []mem.SystemCalls { return []mem.SystemCalls{written(0), {CPU: 1}} }
	on := func(*cpuMachine) []mem.Registers { return []mem.Registers{started(0), started(1)} }
	off := func(*cpuMachine) []mem.Registers { return []mem.Registers{started(0), starting["after INIT"]} }
	tests := map[string]struct {
		mask  uint64
		again func(*cpuMachine) []mem.Registers
		calls []func() []mem.SystemCalls
		left  []int
		zero  bool // a CPU is judged that has none
	}{
		"written":                     {3, on, []func() []mem.SystemCalls{both}, nil, false},
		"coming on line":              {2, off, []func() []mem.SystemCalls{one}, []int{1}, false},
		"on line since":               {3, on, []func() []mem.SystemCalls{one, both}, nil, false},
		"on line, and never written":  {3, on, []func() []mem.SystemCalls{one}, nil, true},
		"on line, and taken for INIT": {3, off, []func() []mem.SystemCalls{one}, nil, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			m := &cpuMachine{readings: []func(*cpuMachine) []mem.Registers{tt.again}, calls: tt.calls}
			c := cpuCollector(t, m, tt.mask)
			c.registers = on(m) // when the scan began
			if err := planMSRs(c); err != nil {
				t.Fatal(err)
			}
			if zero := slices.ContainsFunc(c.systemCalls, c.unwritten); zero != tt.zero || !slices.Equal(c.left, tt.left) {
				t.Errorf("left out %v, of %+v", c.left, c.systemCalls)
			}
		})
	}
}
