package check

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/measure"
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
	memory   mem.Reader // nil, or pages
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

func (m *cpuMachine) Memory() mem.Reader { return m.memory }

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
	space := paging.SpaceAt(m.pages, 0x10000, 4)
	return &collector{ctx: t.Context(), machine: m, space: space, profile: &kernel.Profile{
		Base: onlineBase, End: onlineBase + 0x10000, Space: space, Types: typesOf(t, area),
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

// resting are those of one that has not begun to start, or has only just: it
// translates no addresses.
var resting = map[string]mem.Registers{
	"after INIT":                         {CPU: 1, CR0: 0x60000010, RIP: 0xfff0, GDT: mem.Table{Limit: 0xffff}},
	"in real mode code":                  {CPU: 1, CR0: 0x60000011, GDT: mem.Table{Base: 0x98040, Limit: 31}},
	"where the firmware left it, in HLT": {CPU: 1, CR0: 0x00000023, RIP: 0x3eb2d085, GDT: mem.Table{Base: 0x3f5dc000, Limit: 71}},
}

// starting are those of one on the way, in the order in which it gets there.
var starting = []struct {
	name      string
	registers mem.Registers
}{
	{"in the trampoline", mem.Registers{CPU: 1, CR0: 0x80000001, RIP: 0x98110, GDT: mem.Table{Base: 0x98040, Limit: 31}}},
	{"in its first steps", mem.Registers{CPU: 1, CR0: 0x80050033, RIP: onlineBase + 0x100, GDT: mem.Table{Base: 0xffff_8880_3ec0_a000, Limit: 127}}},
	{"with its table mapped, and no task state", mem.Registers{CPU: 1, CR0: 0x80050033, RIP: onlineBase + 0x200, GDT: mem.Table{Base: tableOfFirst, Limit: 127}}},
}

// elsewhere are those of a CPU that runs a kernel with tables of an attacker's, at
// a privilege.
func elsewhere(cpl int) mem.Registers {
	r := started(1)
	r.GDT.Base, r.IDT, r.CPL = 0xffff_8880_0100_0000, mem.Table{Base: 0xffff_8880_0100_1000, Limit: idtSize - 1}, cpl
	return r
}

// TestLeavesOutStoppedCPUs: a CPU that does not run with paging on, and which the
// kernel says is not on line, is left out of the checks, and named.
func TestLeavesOutStoppedCPUs(t *testing.T) {
	for name, r := range resting {
		t.Run(name, func(t *testing.T) {
			again := func(*cpuMachine) []mem.Registers { return []mem.Registers{started(0), r} }
			c := cpuCollector(t, &cpuMachine{readings: []func(*cpuMachine) []mem.Registers{again}}, 2)
			c.registers = again(nil)
			c.leaveOut()
			if len(c.registers) != 1 || c.registers[0].CPU != 0 || c.watch.looks != 1 {
				t.Errorf("judged %+v after %d looks", c.registers, c.watch.looks)
			}
			if err := c.absent.unaccounted(); err != nil || c.absent.leftOut() != "left out, as not on line: CPU 1" {
				t.Errorf("%q, %v", c.absent.leftOut(), err)
			}
		})
	}
}

// TestDetectsCPUOffTheMask: an attacker clears a CPU's bit in the mask of those on
// line and has it use other descriptor tables. That is what a CPU on its way looks
// like, but such a one arrives. It may be said to be no more than not measured, as
// long as it is not seen to run a process.
func TestDetectsCPUOffTheMask(t *testing.T) {
	inKernel := func(*cpuMachine) []mem.Registers { return []mem.Registers{started(0), elsewhere(0)} }
	inProcess := func(*cpuMachine) []mem.Registers { return []mem.Registers{started(0), elsewhere(3)} }
	stopped := func(*cpuMachine) []mem.Registers { return []mem.Registers{started(0), resting["after INIT"]} }
	tests := map[string]struct {
		readings []func(*cpuMachine) []mem.Registers
		judged   int
	}{
		"in the kernel": {[]func(*cpuMachine) []mem.Registers{inKernel}, 1},
		"in a process":  {[]func(*cpuMachine) []mem.Registers{inKernel, inProcess, inKernel}, 2},
		// A CPU that was seen to run is not left out because it hides once.
		"in the kernel, then stopped": {[]func(*cpuMachine) []mem.Registers{inKernel, stopped}, 1},
		"another's table": {[]func(*cpuMachine) []mem.Registers{func(*cpuMachine) []mem.Registers {
			r := started(1)
			r.GDT = started(0).GDT
			return []mem.Registers{started(0), r}
		}}, 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := cpuCollector(t, &cpuMachine{readings: tt.readings}, 2)
				c.registers = tt.readings[0](nil)
				c.leaveOut()
				if len(c.registers) != tt.judged || len(c.registers)+len(c.absent) != 2 {
					t.Fatalf("judged %+v, absent %+v", c.registers, c.absent)
				}
				if err := c.absent.unaccounted(); (err == nil) != (tt.judged == 2) {
					t.Errorf("unaccounted: %v", err)
				}
			})
		})
	}
}

// TestAcceptsStartingCPU: the benign twin. The CPU takes nearly as long as the kernel
// waits for it, as on a machine that is short of processors, and in the end is judged.
func TestAcceptsStartingCPU(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const step = 3 * time.Second
		began := time.Now()
		look := func(m *cpuMachine) []mem.Registers {
			if at := int(time.Since(began) / step); at < len(starting) {
				return []mem.Registers{started(0), starting[at].registers}
			}
			m.online(3)
			return []mem.Registers{started(0), started(1)}
		}
		m := &cpuMachine{readings: []func(*cpuMachine) []mem.Registers{look}}
		c := cpuCollector(t, m, 2)
		c.registers = look(m)
		c.leaveOut()
		if len(c.absent) != 0 || len(c.registers) != 2 || c.registers[1].GDT.Base != tableOfFirst {
			t.Errorf("judged %+v, absent %+v", c.registers, c.absent)
		}
	})
}

// No check that says something of each CPU passes while one is not accounted for;
// one that was stopped is named.
func TestJudgesAbsentCPUs(t *testing.T) {
	absent := map[string]func(*measure.Observations, absentCPUs){
		registersName: func(o *measure.Observations, a absentCPUs) {
			edit(t, o, registersName, func(d *registersData) { d.Absent = a })
		},
		msrsName: func(o *measure.Observations, a absentCPUs) { edit(t, o, msrsName, func(d *msrsData) { d.Absent = a }) },
		idtName:  func(o *measure.Observations, a absentCPUs) { edit(t, o, idtName, func(d *idtData) { d.Absent = a }) },
		gdtName:  func(o *measure.Observations, a absentCPUs) { edit(t, o, gdtName, func(d *gdtData) { d.Absent = a }) },
		pageTablesName: func(o *measure.Observations, a absentCPUs) {
			edit(t, o, pageTablesName, func(d *pageTablesData) { d.Absent = a })
		},
	}
	for name, set := range absent {
		obs := withMSRs(t)
		set(obs, absentCPUs{{CPU: 7, CR0: 0x60000010}})
		if c := judgeOne(t, obs, name); c.Outcome != measure.Pass || !strings.Contains(c.Reason, "CPU 7") {
			t.Errorf("%s with a stopped CPU: %s (%s)", name, c.Outcome, c.Reason)
		}
		set(obs, absentCPUs{{CPU: 6, CR0: 0x60000010}, {CPU: 7, CR0: 0x80050033, GDT: 0xffff_8880_0100_0000}})
		if c := judgeOne(t, obs, name); c.Outcome != measure.NotMeasured || !strings.Contains(c.Reason, "CPU 7") {
			t.Errorf("%s with a CPU off the mask: %s (%s)", name, c.Outcome, c.Reason)
		}
	}
}

// The same registers of a CPU that is on line are judged, and are findings; so
// are those of a CPU while the other is off line, and of all if none is on line.
func TestKeepsCPUsOnLine(t *testing.T) {
	own := started(1)
	tests := map[string]struct {
		mask      uint64
		registers []mem.Registers
	}{
		"both on line":                       {3, []mem.Registers{started(0), own}},
		"a parked CPU":                       {2, []mem.Registers{started(0), own}},
		"another table":                      {3, []mem.Registers{started(0), elsewhere(0)}},
		"another table, the other is parked": {1, []mem.Registers{started(0), elsewhere(0)}},
		"two CPUs with the same table":       {3, []mem.Registers{own, {CPU: 0, CR0: own.CR0, GDT: own.GDT, TR: own.TR}}},
		"none on line":                       {0, []mem.Registers{resting["after INIT"], elsewhere(0)}},
	}
	for name, r := range resting {
		tests[name] = struct {
			mask      uint64
			registers []mem.Registers
		}{3, []mem.Registers{started(0), r}}
	}
	for _, s := range starting {
		tests[s.name] = struct {
			mask      uint64
			registers []mem.Registers
		}{3, []mem.Registers{started(0), s.registers}}
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				again := func(*cpuMachine) []mem.Registers { return slices.Clone(tt.registers) }
				c := cpuCollector(t, &cpuMachine{readings: []func(*cpuMachine) []mem.Registers{again}}, tt.mask)
				c.registers = again(nil)
				c.leaveOut()
				if len(c.absent) != 0 || !cmp.Equal(c.registers, tt.registers) {
					t.Errorf("left out %v, judged %+v", c.absent, c.registers)
				}
			})
		})
	}
}

// A CPU that comes on line while it is looked at is looked at again.
func TestLooksAgainAtCPUs(t *testing.T) {
	early := []mem.Registers{started(0), resting["after INIT"]}
	m := &cpuMachine{readings: []func(*cpuMachine) []mem.Registers{
		func(m *cpuMachine) []mem.Registers { m.online(3); return slices.Clone(early) },
		func(*cpuMachine) []mem.Registers { return []mem.Registers{started(0), started(1)} },
	}}
	c := cpuCollector(t, m, 2)
	c.registers = slices.Clone(early)
	c.leaveOut()
	if len(c.absent) != 0 || len(c.registers) != 2 || c.registers[1].GDT.Base != tableOfFirst {
		t.Errorf("left out %v, judged %+v", c.absent, c.registers)
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
	off := func(*cpuMachine) []mem.Registers { return []mem.Registers{started(0), resting["after INIT"]} }
	tests := map[string]struct {
		mask  uint64
		again func(*cpuMachine) []mem.Registers
		calls []func() []mem.SystemCalls
		left  bool // the second CPU is not judged
		zero  bool // a CPU is judged that has none
	}{
		"written":                     {3, on, []func() []mem.SystemCalls{both}, false, false},
		"coming on line":              {2, off, []func() []mem.SystemCalls{one}, true, false},
		"on line since":               {3, on, []func() []mem.SystemCalls{one, both}, false, false},
		"on line at each look":        {3, on, []func() []mem.SystemCalls{one, one, one, one, both}, false, false},
		"on line, and never written":  {3, on, []func() []mem.SystemCalls{one}, false, true},
		"on line, and taken for INIT": {3, off, []func() []mem.SystemCalls{one}, false, true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := &cpuMachine{readings: []func(*cpuMachine) []mem.Registers{tt.again}, calls: tt.calls}
				c := cpuCollector(t, m, tt.mask)
				c.registers = on(m) // when the scan began
				if err := planMSRs(c); err != nil {
					t.Fatal(err)
				}
				if zero := slices.ContainsFunc(c.systemCalls, c.unwritten); zero != tt.zero || c.absent.has(1) != tt.left {
					t.Errorf("left out %v, of %+v", c.absent, c.systemCalls)
				}
			})
		})
	}
}

// What looks like a guest's registers of system calls, and KVM does not say so, is
// looked at again: KVM may have put the kernel's back meanwhile. Registers that stay
// are what the CPU has, and so are those of a CPU in user mode, or without KVM's module for the processor.
func TestCallsThatKVMTookBack(t *testing.T) {
	const entry = onlineBase + 0x400
	calls := func(lstar uint64, v mem.Virtualization) []mem.SystemCalls {
		return []mem.SystemCalls{{STAR: 0x23001000000000, LSTAR: lstar, FMASK: 0x257fd5, Virtualization: &v}}
	}
	own := func() []mem.SystemCalls { return calls(entry, mem.Virtualization{}) }
	guests := func() []mem.SystemCalls { return calls(entry+0x100, mem.Virtualization{}) }
	inUser := func() []mem.SystemCalls { return calls(entry+0x100, mem.Virtualization{User: true}) }
	for name, tt := range map[string]struct {
		module string
		calls  []func() []mem.SystemCalls
		own    bool // what is judged is the kernel's
	}{
		"the kernel's":      {"kvm_intel", []func() []mem.SystemCalls{own}, true},
		"taken back":        {"kvm_intel", []func() []mem.SystemCalls{guests, own}, true},
		"again, and back":   {"kvm_intel", []func() []mem.SystemCalls{guests, guests, own}, true},
		"never":             {"kvm_intel", []func() []mem.SystemCalls{guests}, false},
		"in user mode":      {"kvm_intel", []func() []mem.SystemCalls{inUser, own}, false},
		"without KVM's own": {"tun", []func() []mem.SystemCalls{guests, own}, false},
	} {
		t.Run(name, func(t *testing.T) {
			m := &cpuMachine{calls: tt.calls}
			c := cpuCollector(t, m, 1)
			c.profile.Symbols = kernel.NewSymbols([]kernel.Symbol{{Addr: entry, Kind: 'T', Name: entry64}})
			c.registers = []mem.Registers{started(0)}
			c.modules = []kernel.LoadedModule{{Name: tt.module, Live: true}}
			if err := planMSRs(c); err != nil {
				t.Fatal(err)
			}
			if own := c.systemCalls[0].LSTAR == entry; own != tt.own || len(c.callsApart) != 0 {
				t.Errorf("judged %+v, apart %+v", c.systemCalls, c.callsApart)
			}
		})
	}
}

// A CPU whose interrupt table is where nothing is mapped does not keep the others'
// from being looked at, and is a finding.
func TestDetectsAnInterruptTableThatIsNotMapped(t *testing.T) {
	m := new(cpuMachine)
	c := cpuCollector(t, m, 3)
	for at := mem.Phys(0x4000); at < 0x5000; at += 8 {
		m.pages.WriteU64(at, 0)
	}
	table := func(cpu int, base mem.Virt) mem.Registers {
		r := started(cpu)
		r.IDT = mem.Table{Base: base, Limit: idtSize - 1}
		return r
	}
	const unmapped = mem.Virt(entryAreaFirst) + mem.PageSize
	for name, tt := range map[string]struct {
		bases  [2]mem.Virt
		tables int
	}{
		"the second":       {[2]mem.Virt{onlineBase + 0x4000, unmapped}, 1},
		"the first":        {[2]mem.Virt{unmapped, onlineBase + 0x4000}, 1},
		"both, one table":  {[2]mem.Virt{unmapped, unmapped}, 0},
		"both, two tables": {[2]mem.Virt{unmapped, unmapped + 0x1000}, 0},
	} {
		c.registers, c.snapshots = []mem.Registers{table(0, tt.bases[0]), table(1, tt.bases[1])}, nil
		if err := planIDT(c); err != nil {
			t.Fatal(err)
		}
		c.take()
		raw, _, err := collectIDT(c)
		if data, _ := raw.(idtData); (err != nil) != (tt.tables == 0) || err == nil && (len(data.Tables) != tt.tables || len(data.CPUs) != 2) {
			t.Errorf("%s: %v, %+v", name, err, data)
		}
	}
	obs := recorded(t)
	edit(t, obs, idtName, func(d *idtData) { d.CPUs[1].Base = address(unmapped) })
	requireFinding(t, judgeOne(t, obs, idtName), "IDTR of CPU 1", "")
}
