package kernel

import (
	"errors"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/mem/memtest"
)

// TestSaysWhatHadNoKernel: where no kernel is found the reason tells what each CPU
// was doing, and what its tables have.
func TestSaysWhatHadNoKernel(t *testing.T) {
	m := make(memtest.Pages)
	m.WriteU64(0x1000, 0) // tables that map nothing
	on := mem.Registers{CR0: 0x8005_0033, CR4: 0x20, CR3: 0x1000, EFER: 0xd01}
	regs := []mem.Registers{{CPU: 0, CR0: 0x33, RIP: 0xfff0}, on, on}
	regs[1].CPU, regs[2].CPU, regs[2].CR3 = 1, 2, 0x9000_1000
	for i := 3; i < 9; i++ {
		regs = append(regs, mem.Registers{CPU: i})
	}
	_, err := NewProfile(m, regs)
	if !errors.Is(err, ErrNoKernel) {
		t.Fatalf("%v", err)
	}
	for _, want := range []string{"CPU 0 (RIP 0xfff0", "paging or long mode is off", "CPU 1", "CR3 0x1000", "PML4 entry: page not present",
		"CPU 2", "no memory at this address", "and 5 more"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}
