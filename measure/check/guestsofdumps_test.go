package check

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// The dumps of these tests are of the machine of online_test.go, with KVM loaded.
const (
	runningVCPU  = 0x600 // kvm_running_vcpu, of a CPU's own data
	firstRunning = 0x2000 + runningVCPU
	otherRunning = 0x3000 + runningVCPU
)

func dumpCollector(t *testing.T, running ...mem.Phys) *collector {
	t.Helper()
	m := new(cpuMachine)
	c := cpuCollector(t, m, 3)
	c.modules = []kernel.LoadedModule{{Name: "kvm", At: 1}, {Name: "kvm_amd", At: 2}}
	symbols := &kernel.ModuleSymbols{Symbols: kernel.NewSymbols([]kernel.Symbol{{Addr: runningVCPU, Kind: 'd', Name: "kvm_running_vcpu"}})}
	c.symbols = map[mem.Virt]symbolsOrError{1: {table: symbols}}
	c.still = true
	m.memory = m.pages
	for _, at := range running {
		m.pages.WriteU64(at, 0xffff_8880_0123_4000)
	}
	return c
}

// dumped are the registers of a CPU that runs the kernel, as a dump has them.
func dumped(cpu int) mem.Registers {
	r := started(cpu)
	r.CR3, r.CR4, r.GSBase = 0x10000, mem.CR4PAE, onlineBase+0x3000
	if cpu == 1 {
		r.GSBase = onlineBase + 0x2000
	}
	r.Missing = []string{"EFER", "DR7"}
	return r
}

// guest are those of a guest that has all where Linux has it, but for the page tables
// that it cannot know.
func guestDumped(cpu int) mem.Registers {
	r := dumped(cpu)
	r.CR3, r.GDT.Base = 0x1000, tableOfFirst
	return r
}

// inRealMode are those of a guest that has just begun.
func inRealMode(cpu int) mem.Registers {
	return mem.Registers{CPU: cpu, CR0: 0x10, GDT: mem.Table{Limit: 0xffff}, Missing: []string{"EFER", "DR7"}}
}

func TestGuestsOfDumps(t *testing.T) {
	with := func(r mem.Registers, change func(*mem.Registers)) mem.Registers { change(&r); return r }
	tests := map[string]struct {
		running   []mem.Phys // CPUs that KVM says are in a guest
		registers []mem.Registers
		apart     []int
	}{
		"no guests":                         {nil, []mem.Registers{dumped(0), dumped(1)}, nil},
		"a guest":                           {[]mem.Phys{otherRunning}, []mem.Registers{guestDumped(0), dumped(1)}, []int{0}},
		"a guest in real mode":              {[]mem.Phys{otherRunning}, []mem.Registers{inRealMode(0), dumped(1)}, []int{0}},
		"guests on all CPUs":                {[]mem.Phys{firstRunning, otherRunning}, []mem.Registers{guestDumped(0), guestDumped(1)}, []int{0, 1}},
		"about to enter one":                {[]mem.Phys{firstRunning}, []mem.Registers{dumped(0), dumped(1)}, []int{1}},
		"a guest with the kernel's tables":  {[]mem.Phys{firstRunning}, []mem.Registers{dumped(0), with(guestDumped(1), func(r *mem.Registers) { r.CR3 = 0x10000 })}, []int{1}},
		"in user mode with isolated tables": {[]mem.Phys{otherRunning}, []mem.Registers{guestDumped(0), with(dumped(1), func(r *mem.Registers) { r.CR3, r.CPL, r.GSBase = 0x11000, 3, 0 })}, []int{0}},

		// Attacks: these stay in, and are findings.
		"another interrupt table, no guests":             {nil, []mem.Registers{with(dumped(0), func(r *mem.Registers) { r.IDT.Base = 1 << 40 }), dumped(1)}, nil},
		"another interrupt table beside a guest":         {[]mem.Phys{firstRunning}, []mem.Registers{with(dumped(0), func(r *mem.Registers) { r.IDT.Base = 1 << 40 }), guestDumped(1)}, []int{1}},
		"another descriptor table beside a guest":        {[]mem.Phys{firstRunning}, []mem.Registers{with(dumped(0), func(r *mem.Registers) { r.GDT.Base = 1 << 40 }), guestDumped(1)}, []int{1}},
		"other page tables, no guests":                   {nil, []mem.Registers{with(dumped(0), func(r *mem.Registers) { r.CR3 = 0x1000 }), dumped(1)}, nil},
		"other page tables on two CPUs, one guest":       {[]mem.Phys{firstRunning}, []mem.Registers{guestDumped(0), guestDumped(1)}, nil},
		"all of that on the CPU that KVM says is in one": {[]mem.Phys{otherRunning}, []mem.Registers{with(dumped(0), func(r *mem.Registers) { r.IDT.Base = 1 << 40 }), dumped(1)}, []int{0}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := dumpCollector(t, tt.running...)
			known, apart := c.setApart(tt.registers)
			var numbers []int
			for _, a := range apart {
				numbers = append(numbers, a.CPU)
				if !strings.Contains(a.Unread, "guest of the target") {
					t.Errorf("CPU %d: %q", a.CPU, a.Unread)
				}
			}
			if !slices.Equal(numbers, tt.apart) || len(known)+len(apart) != len(tt.registers) {
				t.Errorf("set apart: %v, want %v; known: %d", numbers, tt.apart, len(known))
			}
			if (len(apart) > 0) != (apart.unaccounted() != nil) {
				t.Error("a CPU is set apart and what is said of each CPU is known")
			}
		})
	}
}

// A guest that looks like a CPU that is off line is not taken for that.
func TestGuestsOfDumpsLikeACPUOffLine(t *testing.T) {
	c := dumpCollector(t, firstRunning)
	c.machine.(*cpuMachine).online(1)
	like := guestDumped(1)
	like.CR3, like.GDT.Base = 0x10000, tableOfOther
	if known, apart := c.setApart([]mem.Registers{inRealMode(0), like}); len(known) != 0 || len(apart) != 2 {
		t.Errorf("%+v, %+v", known, apart)
	}
}

// Where KVM's word cannot be read, CPUs with the kernel's tables stay in.
func TestGuestsOfDumpsWithoutKVMsWord(t *testing.T) {
	c := dumpCollector(t)
	c.symbols[1] = symbolsOrError{err: errors.New("no symbols")}
	known, apart := c.setApart([]mem.Registers{guestDumped(0), dumped(1)})
	if len(known) != 1 || known[0].CPU != 1 || len(apart) != 1 || !strings.Contains(apart[0].Unread, "no symbols") {
		t.Errorf("%+v, %+v", known, apart)
	}
}

// A source that tells is believed: KVM's word is not asked for.
func TestGuestsOfASourceThatTells(t *testing.T) {
	c := dumpCollector(t, firstRunning, otherRunning)
	live := guestDumped(0)
	live.Missing = nil
	if known, apart := c.setApart([]mem.Registers{live}); len(known) != 1 || len(apart) != 0 {
		t.Errorf("%+v, %+v", known, apart)
	}
}
