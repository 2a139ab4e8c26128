package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

func TestExplainKexec(t *testing.T) {
	const (
		page                          = mem.Virt(0xffff888112345000)
		phys                          = mem.Phys(0x1_1234_5000)
		alt, handlers, variables, idt = 32, 64, 256, 512
	)
	blob := bytes.Repeat([]byte{0x90}, 768)
	clear(blob[variables:])
	k := newTestKernel()
	start := k.section(".data", blob)
	replacement := k.section(".altinstr_replacement", []byte{0x41, 0x83, 0xcd, 0x40})
	table := k.next
	entry := append(relative(table, start+alt, replacement), 0, 0, 0, 0, 4, 4) // no feature, no flags
	k.section(".altinstructions", entry)
	k.symbols = append(k.symbols, Symbol{start, 'D', "__relocate_kernel_start"}, Symbol{start + 768, 'D', "__relocate_kernel_end"},
		Symbol{start + handlers, 'T', "kexec_debug_exc_vectors"}, Symbol{start + idt, 'T', "kexec_debug_idt"})
	for i, name := range []string{"kexec_va_control_page", "kexec_pa_table_page", "kexec_pa_swap_page", "kexec_debug_8250_mmio32", "kexec_debug_8250_port"} {
		k.symbols = append(k.symbols, Symbol{start + variables + uint64(i)*8, 'D', name})
	}
	e := NewExpected(k.image(t), testSlide, PatchFacts{})

	seen := append(bytes.Clone(blob), make([]byte, mem.PageSize-len(blob))...)
	copy(seen[alt:], []byte{0x0f, 0x1f, 0x40, 0}) // NOPs that were merged
	for i, value := range []uint64{uint64(page), 0x7654000, 0, 0xfe00_0004, 0x3f8} {
		binary.LittleEndian.PutUint64(seen[variables+i*8:], value)
	}
	for i := range 16 {
		copy(seen[idt+i*16:], []byte{byte(handlers + i*6), 0x50, 0x10, 0, 0, 0x8f, 0x34, 0x12, 1})
	}
	with := func(off int, code ...byte) []byte {
		out := bytes.Clone(seen)
		copy(out[off:], code)
		return out
	}
	for name, code := range map[string][]byte{
		"as it is": seen, "replaced": with(alt, 0x41, 0x83, 0xcd, 0x40), "with a page to swap": with(variables+16, 0, 0x10, 2, 3),
		"something behind it": with(mem.PageSize-1, 0xc3),
	} {
		found, behind, err := e.ExplainKexec(page, phys, code)
		if err != nil || len(found) != 0 || !bytes.Equal(behind, code[768:]) {
			t.Errorf("%s: %+v, %d bytes behind, %v", name, found, len(behind), err)
		}
	}
	for name, off := range map[string]int{
		"code": 3, "alternative": alt + 1, "where it is": variables + 1, "table": variables + 8, "page to swap": variables + 23,
		"device": variables + 24, "port": variables + 34, "gate": idt + 1, "the last gate": idt + 255,
	} {
		found, _, err := e.ExplainKexec(page, phys, with(off, seen[off]^1))
		if err != nil || len(found) != 1 || found[0].Addr < page || found[0].Addr > page+mem.Virt(off) {
			t.Errorf("a change of %s: %+v, %v", name, found, err)
		}
	}
	if found, _, _ := e.ExplainKexec(page+mem.PageSize, phys, seen); len(found) != 1 {
		t.Errorf("at another place: %+v", found)
	}
	if _, _, err := newExpectedOf(t).ExplainKexec(page, phys, seen); !errors.Is(err, errKexec) {
		t.Errorf("no such code: %v", err)
	}
	if _, _, err := e.ExplainKexec(page, phys, seen[:512]); !errors.Is(err, errKexec) {
		t.Errorf("half a page: %v", err)
	}
}
