package graph

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"
	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// calls puts code into the text that calls through a variable, or through what is
// at an offset of the object that it points to.
func (f *fixture) calls(at, variable uint64, offset ...byte) {
	code := binary.LittleEndian.AppendUint32([]byte{0x48, 0x8b, 5}, uint32(variable-at-7)) // MOV RAX, [RIP+disp32]
	for _, n := range offset {
		code = append(code, 0x48, 0x8b, 0x40, n) // MOV RAX, [RAX+n]
	}
	f.Write(mem.Phys(at-base), append(code, 0xff, 0xd0)...) // CALL RAX
}

// Variables that the text calls through are walked from, by what it loads.
func TestWalkFromCalledVariables(t *testing.T) {
	f := newFixture()
	f.put(text, 0)
	variable, table := f.global("handler"), f.global("operations")
	list, freed, listed := f.global("empty_list"), f.global("called_at_boot"), f.global("reboot_notifier_list")
	init := f.global("__init_begin")
	f.symbols = append(f.symbols, kernel.Symbol{Addr: vars, Kind: 'D', Name: "_sdata"}, kernel.Symbol{Addr: init, Kind: 'D', Name: "_edata"},
		kernel.Symbol{Addr: init + 256, Kind: 'D', Name: "__init_end"})
	f.calls(text+0x100, variable)
	f.calls(text+0x180, table, 16)
	f.calls(text+0x200, table, 24)
	f.calls(text+0x280, list, 0)
	f.calls(text+0x300, freed)
	f.calls(text+0x380, listed)
	f.put(variable, text+1) // no function starts there: a walk has no opinion
	f.put(table, heap)
	f.put(heap+16, text+2)
	f.put(heap+24, text+3)
	f.put(list, list)
	f.put(freed, init+8)
	r := f.walk(t)
	want := map[string]uint64{"handler": text + 1, "operations->+0x10": text + 2, "operations->+0x18": text + 3}
	if diff := cmp.Diff(want, found(r)); diff != "" {
		t.Error(diff)
	}
	if all := strings.Join(r.NotWalked, "\n"); !strings.Contains(all, "variables that lead into text that was freed after boot (1)") {
		t.Errorf("does not say what it left out:\n%s", all)
	}
}

// A timer whose trial failed at boot keeps the handler of that, and no other.
func TestWalkLeavesHandlerOfTimerTrial(t *testing.T) {
	const trial = 8 // where its handler is in the text that was freed
	for name, tt := range map[string]struct {
		leads, freed, end uint64
		found             bool
	}{
		"to it":                          {vars + 0x800 + trial, vars + 0x800, vars + 0x900, false},
		"behind its start":               {vars + 0x800 + trial + 1, vars + 0x800, vars + 0x900, true},
		"to it, and it was not freed":    {vars + 0x800 + trial, vars + 0x900, vars + 0xa00, true},
		"to something else that was":     {vars + 0x800, vars + 0x800, vars + 0x900, true},
		"to a function that still lives": {text, vars + 0x800, vars + 0x900, true},
	} {
		t.Run(name, func(t *testing.T) {
			function := &btf.Pointer{Target: &btf.FuncProto{Return: (*btf.Void)(nil)}}
			device := &btf.Struct{Name: "clock_event_device", Size: 8, Members: []btf.Member{{Name: "event_handler", Type: function}}}
			f := newFixture()
			f.types = func() (*btf.Spec, error) {
				return makeSpec(&btf.Struct{Name: "x86_platform_ops", Size: 8, Members: []btf.Member{{Name: "timer", Type: device}}})
			}
			f.symbols = append(f.symbols, kernel.Symbol{Addr: vars + 0x800 + trial, Kind: 't', Name: "lapic_cal_handler"},
				kernel.Symbol{Addr: tt.freed, Kind: 'D', Name: "__init_begin"}, kernel.Symbol{Addr: tt.end, Kind: 'D', Name: "__init_end"})
			f.put(f.global("x86_platform"), tt.leads)
			if r := f.walk(t); (len(r.Pointers) > 0) != tt.found {
				t.Errorf("found %+v", r.Pointers)
			}
		})
	}
}

// A sample that BPF sent keeps the address of its record, which was on a stack: what
// lies there since is not taken for one. The rest of what it leads to is.
func TestWalkLeavesRecordOfSample(t *testing.T) {
	function := &btf.Pointer{Target: &btf.FuncProto{Return: (*btf.Void)(nil)}}
	record := &btf.Struct{Name: "perf_raw_record", Size: 8, Members: []btf.Member{{Name: "copy", Type: function}}}
	sample := &btf.Struct{Name: "perf_sample_data", Size: 16, Members: []btf.Member{
		{Name: "raw", Type: &btf.Pointer{Target: record}}, {Name: "other", Type: &btf.Pointer{Target: record}, Offset: 64}}}
	f := newFixture()
	f.types = func() (*btf.Spec, error) {
		return makeSpec(&btf.Struct{Name: "x86_platform_ops", Size: 16, Members: []btf.Member{{Name: "sample", Type: sample}}})
	}
	at := f.global("x86_platform")
	f.put(at, heap)
	f.put(at+8, heap+0x100)
	f.put(heap, text+1)
	f.put(heap+0x100, text+2)
	want := map[string]uint64{"x86_platform.sample.other->copy": text + 2}
	if diff := cmp.Diff(want, found(f.walk(t))); diff != "" {
		t.Error(diff)
	}
}
