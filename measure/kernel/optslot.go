package kernel

import (
	"bytes"
	"encoding/binary"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// clac is what the template's NOP becomes where the CPU has SMAP.
var clac = []byte{0x0f, 0x01, 0xca}

// probeTemplate is the code that the slot of an optimized probe starts with:
// optprobe_template_entry to optprobe_template_end in read-only data
// (arch/x86/kernel/kprobes/opt.c), and the places in it that a copy changes.
type probeTemplate struct {
	code            []byte
	clac, val, call int
}

func (e *Expected) probeTemplate() (t probeTemplate, ok bool) {
	at := func(name string) uint64 {
		addr, _ := e.image.Symbols.Address("optprobe_template_" + name)
		return addr
	}
	start, end := at("entry"), at("end")
	if start == 0 || end <= start || end-start > 2048 {
		return t, false
	}
	t = probeTemplate{code: e.image.At(start, int(end-start)), clac: int(at("clac") - start), val: int(at("val") - start), call: int(at("call") - start)}
	if at("clac") == 0 {
		t.clac = -1 // before 5.9
	} else if t.clac < 0 || t.clac+3 > len(t.code) {
		return t, false
	}
	return t, t.val >= 0 && t.val+10 <= len(t.code) && t.call >= 0 && t.call+5 <= len(t.code)
}

// judgeOptimized: the slot of an optimized probe holds the template with its
// owner and a call of optimized_callback, then the instructions that the jump
// replaced, moved, then a jump behind those.
func (s *slot) judgeOptimized() string {
	t, ok := s.env.probeTemplate()
	if !ok {
		return "this kernel's file has no template for the slots of optimized kprobes"
	}
	n := len(t.code)
	if n+5+5 > len(s.code) {
		return "the slot of an optimized kprobe is shorter than the template"
	}
	if want := s.template(t); !bytes.Equal(s.code[:n], want) {
		s.expected = want[:min(n, 32)]
		return "the slot of an optimized kprobe differs from the kernel's template"
	}
	if s.owner != nil && binary.LittleEndian.Uint64(s.code[t.val+2:]) != uint64(s.owner.At) {
		return "the slot of an optimized kprobe is for another probe"
	}
	for length := 5; length <= maxDetoured && n+length+5 <= len(s.code); length++ {
		to := s.jumpsTo(n + length)
		from := mem.Virt(to - uint64(length))
		if to == 0 || s.owner != nil && from != s.owner.Addr {
			continue
		}
		switch {
		case s.copies(from, length, n) && s.owner != nil:
			return ""
		case s.copies(from, length, n), s.owner == nil && s.leadsNowhere(n+length):
			return gone
		}
	}
	return "the slot of an optimized kprobe differs from the instructions that its jump replaced"
}

// template is what the slot should start with. Only whose it is is free.
func (s *slot) template(t probeTemplate) []byte {
	want := bytes.Clone(t.code)
	if t.clac >= 0 && bytes.Equal(s.code[t.clac:t.clac+3], clac) {
		copy(want[t.clac:], clac)
	}
	copy(want[t.val:], []byte{0x48, 0xbf}) // movabs $op, %rdi
	copy(want[t.val+2:], s.code[t.val+2:t.val+10])
	if callback, ok := s.env.image.Symbols.Address("optimized_callback"); ok {
		copy(want[t.call:], branch(opCall, uint64(s.start)+uint64(t.call), callback+s.env.slide))
	}
	return want
}
