package kernel

import (
	"bytes"
	"testing"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// KVM's static calls stay what they were when the module for the processor goes. If
// another module comes to lie there they are neither explained nor a finding, as long
// as they go where their keys say, into no function's start, and are KVM's.
func TestCallsIntoModulesInTheirPlace(t *testing.T) {
	const other = uint64(0xffffffffc0500000)
	inside := other + 0x44
	for name, tt := range map[string]struct {
		orphan      string
		key, target uint64
		findings    int
		taken       bool
	}{
		"there":                  {"kvm", inside, inside, 0, true},
		"at a function's start":  {"kvm", other + 0x40, other + 0x40, 0, false},
		"not where the key says": {"kvm", inside + 2, inside, 1, false},
		"with kvm_amd loaded":    {"", inside, inside, 1, false},
		"of another module":      {"other", inside, inside, 1, false},
		"into the kernel":        {"kvm", fn(2) + 4, fn(2) + 4, 1, false},
		"into itself":            {"kvm", inside + mem.PageSize, inside + mem.PageSize, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			k := newTestKernel()
			at, key := uint64(testBase+0x200), uint64(testVars+0x100)
			k.code(at, call(at, fn(10))...)
			k.merged("__start_static_call_sites", "__stop_static_call_sites", relative(k.next, at, key))
			e := NewExpected(k.image(t), 0, PatchFacts{StaticCalls: map[uint64]uint64{key: tt.key}})
			e.Orphan(tt.orphan)
			for i, name := range []string{"other", "kvm"} {
				start := other + uint64(i)*mem.PageSize
				symbols := NewSymbols([]Symbol{{start, 't', "one"}, {start + 0x40, 't', "two"}})
				e.modules = append(e.modules, &Text{Name: name, Start: mem.Virt(start), Pages: 1, symbols: symbols})
			}
			// What calls is the kernel's text, under KVM's name and elsewhere.
			kvm := *e.Kernel()
			kvm.Name = "kvm"
			seen := bytes.Clone(e.kernel.want())
			copy(seen[0x200:], call(at, tt.target))
			x := e.Explain(&kvm, []int{0}, func(p int) []byte { return seen[p*4096 : (p+1)*4096] })
			if len(x.Findings) != tt.findings || x.Taken["other"] != tt.taken {
				t.Errorf("%+v", x)
			}
		})
	}
}
