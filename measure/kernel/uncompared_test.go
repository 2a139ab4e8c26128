package kernel

import (
	"bytes"
	"testing"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// A static call into a module that is not compared, because it came or is not live,
// is neither explained nor a finding, if it goes where its key says.
func TestCallsIntoUncomparedModules(t *testing.T) {
	const function, size = uint64(0xffffffffc0500040), 0x1000
	for name, tt := range map[string]struct {
		key, target uint64
		start       mem.Virt
		findings    int
	}{
		"there":                     {function, function, 0xffffffffc0500000, 0},
		"not where the key says":    {function + 0x80, function, 0xffffffffc0500000, 1},
		"into no module":            {function, function, 0xffffffffc0600000, 1},
		"behind the module's end":   {function + size, function + size, 0xffffffffc0500000, 1},
		"before the module's start": {function, function, 0xffffffffc0500080, 1},
	} {
		t.Run(name, func(t *testing.T) {
			k := newTestKernel()
			at, key := uint64(testBase+0x200), uint64(testVars+0x100)
			k.code(at, call(at, fn(10))...)
			k.merged("__start_static_call_sites", "__stop_static_call_sites", relative(k.next, at, key))
			e := NewExpected(k.image(t), 0, PatchFacts{StaticCalls: map[uint64]uint64{key: tt.key}})
			e.Uncompared("kvm", tt.start, size)
			seen := bytes.Clone(e.kernel.want())
			copy(seen[0x200:], call(at, tt.target))
			x := e.Explain(e.Kernel(), []int{0}, func(p int) []byte { return seen[p*4096 : (p+1)*4096] })
			if len(x.Findings) != tt.findings || x.Uncompared["kvm"] != (tt.findings == 0) || !x.Told[0] {
				t.Errorf("%+v", x)
			}
		})
	}
}
