package kernel

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// A page of slots, and a kernel with an instruction relative to RIP at fn(1),
// and five plain ones behind it.
const testSlots = 0xffffffffc0200000

var (
	ripInstruction = []byte{0x48, 0x8b, 0x05, 0x10, 0, 0, 0} // mov 0x10(%rip), %rax
	plain          = []byte{0x55, 0x48, 0x89, 0xe5, 0x53}    // push, mov, push
)

func probedKernel(t testing.TB, probes ...Kprobe) *Expected {
	k := newTestKernel()
	k.code(fn(1), append(bytes.Clone(ripInstruction), plain...)...)
	template := make([]byte, 64)
	for i := range template {
		template[i] = 0x90
	}
	at := k.section(".rodata.template", template)
	for name, off := range map[string]uint64{"entry": 0, "clac": 4, "val": 16, "call": 26, "end": 64} {
		k.symbols = append(k.symbols, Symbol{at + off, 'D', "optprobe_template_" + name})
	}
	k.symbols = append(k.symbols, Symbol{fn(12), 't', "optimized_callback"})
	return NewExpected(k.image(t), testSlide, PatchFacts{Kprobes: probes})
}

func textOf(e *Expected) TextReader {
	return func(at mem.Virt, n int) ([]byte, bool) {
		if !e.kernel.holds(uint64(at)) {
			return nil, false
		}
		return e.kernel.want()[at-e.kernel.Start:][:n], true
	}
}

// ripMoved is the instruction of fn(1) as a copy at an address has it.
func ripMoved(at uint64) []byte {
	out := bytes.Clone(ripInstruction)
	binary.LittleEndian.PutUint32(out[3:], uint32(0x10+fn(1)+testSlide-at))
	return out
}

func TestExplainSlots(t *testing.T) {
	probed := mem.Virt(fn(1) + testSlide)
	probe := Kprobe{At: 0xffff888000001000, Addr: probed, Opcode: 0x48, Slot: testSlots + 15}
	e := probedKernel(t, probe)
	page := SlotPage{Start: testSlots, Size: 15}
	good := make([]byte, mem.PageSize)
	copy(good[15:], ripMoved(testSlots+15))
	copy(good[22:], branch(opJump, testSlots+22, uint64(probed)+7))
	stepped := bytes.Clone(good)
	copy(stepped[22:], []byte{opInt3, 0, 0, 0, 0})
	gone := bytes.Clone(good) // a second copy, whose probe is gone
	copy(gone[30:], ripMoved(testSlots+30))
	copy(gone[37:], branch(opJump, testSlots+37, uint64(probed)+7))
	for name, code := range map[string][]byte{"with a jump back": good, "single-stepped": stepped, "with one left over": gone} {
		if d, stale := e.ExplainSlots(page, code, textOf(e)); len(d) != 0 || (stale == 1) != (name == "with one left over") {
			t.Errorf("%s: %d left over, %+v", name, stale, d)
		}
	}
	for name, attack := range map[string]func(b []byte){
		"another instruction":       func(b []byte) { b[15] = 0x49 },
		"an operand not moved":      func(b []byte) { copy(b[15:], ripInstruction) },
		"jumps elsewhere":           func(b []byte) { copy(b[22:], branch(opJump, testSlots+22, fn(2)+testSlide)) },
		"is empty":                  func(b []byte) { copy(b[15:30], make([]byte, 15)) },
		"code in a free slot":       func(b []byte) { copy(b[60:], []byte{0x48, 0x89, 0xf8, 0x48, 0x89, 0xf7, opRet}) },
		"a free slot that branches": func(b []byte) { copy(b[60:], append([]byte{0x90}, branch(opJump, testSlots+61, fn(2)+testSlide+1)...)) },
		"code behind the last slot": func(b []byte) { b[4095] = 0x90 },
		"garbage in front of a jump": func(b []byte) {
			copy(b[60:], append(bytes.Repeat([]byte{0x90}, 9), branch(opJump, testSlots+69, fn(2))...))
		},
	} {
		b := bytes.Clone(good)
		attack(b)
		if d, _ := e.ExplainSlots(page, b, textOf(e)); len(d) == 0 {
			t.Errorf("%s: explained", name)
		}
	}
}

func TestExplainOptimizedSlot(t *testing.T) {
	probed := mem.Virt(fn(1) + testSlide)
	probe := Kprobe{At: 0xffff888000001000, Addr: probed, Opcode: 0x48, Jump: testSlots, Copied: []byte{0x8b, 0x05, 0x10, 0}, Optimized: true}
	e := probedKernel(t, probe)
	page := SlotPage{Start: testSlots, Size: 64 + 25, Optimized: true}
	good := make([]byte, mem.PageSize)
	for i := range 64 {
		good[i] = 0x90
	}
	copy(good[4:], clac)
	copy(good[16:], []byte{0x48, 0xbf})
	binary.LittleEndian.PutUint64(good[18:], uint64(probe.At))
	copy(good[26:], branch(opCall, testSlots+26, fn(12)+testSlide))
	copy(good[64:], ripMoved(testSlots+64))
	copy(good[71:], branch(opJump, testSlots+71, uint64(probed)+7))
	// Memory has the jump where the instruction was: it is put back.
	text := func(at mem.Virt, n int) ([]byte, bool) {
		b, ok := textOf(e)(at, n)
		if at == probed {
			b = bytes.Clone(b)
			copy(b, branch(opJump, uint64(probed), testSlots))
		}
		return b, ok
	}
	if d, stale := e.ExplainSlots(page, good, text); len(d) != 0 || stale != 0 {
		t.Fatalf("a good one: %d left over, %+v", stale, d)
	}
	for name, attack := range map[string]func(b []byte){
		"the template":            func(b []byte) { b[50] = 0xcc },
		"another probe":           func(b []byte) { b[18] ^= 8 },
		"another callback":        func(b []byte) { copy(b[26:], branch(opCall, testSlots+26, fn(2)+testSlide)) },
		"another instruction":     func(b []byte) { b[66] = 0x0d },
		"does not come back":      func(b []byte) { b[71] = opRet },
		"comes back elsewhere":    func(b []byte) { copy(b[71:], branch(opJump, testSlots+71, fn(2)+testSlide)) },
		"no instruction":          func(b []byte) { copy(b[64:], branch(opJump, testSlots+64, uint64(probed))) },
		"is empty":                func(b []byte) { copy(b, make([]byte, 100)) },
		"code in the slot behind": func(b []byte) { copy(b[89:], []byte{0x90, opRet}) },
	} {
		b := bytes.Clone(good)
		attack(b)
		if d, _ := e.ExplainSlots(page, b, text); len(d) == 0 {
			t.Errorf("%s: explained", name)
		}
	}
}

// Slots are judged by the probes that are registered when they are read: text may
// have been read before one was, or after.
func TestExplainSlotsWithProbes(t *testing.T) {
	probed := mem.Virt(fn(1) + testSlide)
	probe := Kprobe{At: 0xffff888000001000, Addr: probed, Opcode: 0x48, Slot: testSlots + 15}
	page := SlotPage{Start: testSlots, Size: 15}
	empty, filled := make([]byte, mem.PageSize), make([]byte, mem.PageSize)
	uncleared := bytes.Repeat(poison[:1], mem.PageSize)
	copy(filled[15:], ripMoved(testSlots+15))
	copy(filled[22:], branch(opJump, testSlots+22, uint64(probed)+7))
	registered, before := probedKernel(t, probe), probedKernel(t)
	for name, tt := range map[string]struct {
		env  *Expected
		code []byte
		ok   bool
	}{
		"registered after the slots were read":  {registered.ForMadeCode(nil, false), empty, true},
		"registered before the slots were read": {before.ForMadeCode([]Kprobe{probe}, false), filled, true},
		"registered, and its slot is empty":     {before.ForMadeCode([]Kprobe{probe}, false), empty, false},
		"in memory that was not cleared":        {before.ForMadeCode(nil, true), uncleared, true},
		"the same where memory is cleared":      {before.ForMadeCode(nil, false), uncleared, false},
		"of a probe, with what memory held":     {before.ForMadeCode([]Kprobe{probe}, true), uncleared, false},
	} {
		d, stale := tt.env.ExplainSlots(page, tt.code, textOf(tt.env))
		d = append(d, tt.env.ExplainOwners([]SlotPage{page})...)
		if (len(d) == 0) != tt.ok || stale != 0 {
			t.Errorf("%s: %d left over, %+v", name, stale, d)
		}
	}
}

// A probe whose code is in no slot of its own leads past what is compared.
func TestExplainOwners(t *testing.T) {
	pages := []SlotPage{{Start: testSlots, Size: 15}, {Start: testSlots + 4096, Size: 89, Optimized: true}}
	for name, tt := range map[string]struct {
		probes []Kprobe
		want   int
	}{
		"in their places":    {[]Kprobe{{Slot: testSlots + 30, Jump: testSlots + 4096}, {Slot: testSlots}, {}}, 0},
		"between slots":      {[]Kprobe{{Slot: testSlots + 31}}, 1},
		"in no page":         {[]Kprobe{{Jump: testSlots + 8192}}, 1},
		"in the wrong kind":  {[]Kprobe{{Jump: testSlots}}, 1},
		"two in one":         {[]Kprobe{{Slot: testSlots}, {Slot: testSlots}}, 1},
		"over a page's end":  {[]Kprobe{{Slot: testSlots + 4095}}, 1},
		"before the page":    {[]Kprobe{{Slot: testSlots - 15}}, 1},
		"in text of a probe": {[]Kprobe{{Slot: mem.Virt(fn(1) + testSlide)}}, 1},
	} {
		e := probedKernel(t, tt.probes...)
		if d := e.ExplainOwners(pages); len(d) != tt.want {
			t.Errorf("%s: %+v, want %d", name, d, tt.want)
		}
	}
}

func FuzzExplainSlots(f *testing.F) {
	probed := mem.Virt(fn(1) + testSlide)
	e := probedKernel(f, Kprobe{At: 8, Addr: probed, Opcode: 0x48, Slot: testSlots, Jump: testSlots, Copied: []byte{1, 2, 3, 4}})
	f.Add(uint16(15), false, append(ripMoved(testSlots), 0xe9, 1, 2, 3, 4))
	f.Add(uint16(89), true, []byte{0x90, 0xe9})
	f.Fuzz(func(t *testing.T, size uint16, optimized bool, in []byte) {
		code := make([]byte, mem.PageSize)
		copy(code, in)
		e.ExplainSlots(SlotPage{Start: testSlots, Size: uint64(size), Optimized: optimized}, code, textOf(e))
	})
}
