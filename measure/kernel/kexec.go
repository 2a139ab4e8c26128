package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

var errKexec = errors.New("the kernel's file has no code that starts another kernel")

// maxPhysical is past what a physical address may be.
const maxPhysical = 1 << 52

// ExplainKexec compares the page from which kexec starts the kernel that it has
// loaded with the code in the kernel's file that it is a copy of, as it was patched
// where it is linked. The kernel makes it executable when that kernel is loaded, from
// 6.14 on (arch/x86/kernel/machine_kexec_64.c, machine_kexec_prepare). code is the
// page, which lies at physical address at. behind is what lies behind the copy, where
// nothing of it leads.
//
// Some of the copy are variables, each a whole word: where the page is has to be
// right, addresses of tables and of the page to swap with have to be those of pages.
// They are read when the machine leaves this kernel.
func (e *Expected) ExplainKexec(start mem.Virt, at mem.Phys, code []byte) (found []Difference, behind []byte, err error) {
	blob := e.image.between("__relocate_kernel_start", "__relocate_kernel_end")
	if len(blob.data) == 0 || len(blob.data) > len(code) || len(code) != mem.PageSize {
		return nil, nil, errKexec
	}
	behind = code[len(blob.data):]
	want := e.image.moved(blob, e.slide)
	v := kexecVariables{e.image.Symbols, blob, want, code}
	v.word("kexec_va_control_page", func(uint64) uint64 { return uint64(start) })
	for _, name := range []string{"kexec_pa_table_page", "kexec_pa_swap_page"} {
		v.word(name, func(seen uint64) uint64 { return seen & (maxPhysical - 1) &^ (mem.PageSize - 1) })
	}
	v.word("kexec_debug_8250_mmio32", func(seen uint64) uint64 { return seen & (maxPhysical - 1) &^ 3 })
	v.word("kexec_debug_8250_port", func(seen uint64) uint64 { return seen & 0xffff })
	v.gates(uint64(at))

	text := append(bytes.Clone(want), behind...)
	t := &Text{Start: mem.Virt(blob.addr + e.slide), Pages: 1, symbols: e.image.Symbols, slide: e.slide, obj: &object{
		text: span{blob.name, blob.addr, text}, replacements: e.image.object.replacements,
	}}
	t.want = func() []byte { return text }
	t.replacements = e.kernel.replacements
	if err := t.obj.build(&tables{alternatives: e.image.section(".altinstructions")}); err != nil {
		return nil, nil, err
	}
	found = e.Explain(t, []int{0}, func(int) []byte { return code }).Findings
	for i := range found {
		found[i].Addr += start - t.Start
		found[i].Explanation = "code that starts the next kernel (kexec) differs from the kernel's file"
	}
	return found, behind, nil
}

// kexecVariables are the variables of the code of kexec.
type kexecVariables struct {
	symbols    *Symbols
	blob       span
	want, seen []byte
}

// at returns where a variable is in the code.
func (v *kexecVariables) at(name string, size uint64) (uint64, bool) {
	addr, ok := v.symbols.Address(name)
	if !ok || addr < v.blob.addr || addr > v.blob.end() || v.blob.end()-addr < size {
		return 0, false
	}
	return addr - v.blob.addr, true
}

// word expects of a variable what a function makes of the value that it has.
func (v *kexecVariables) word(name string, expect func(seen uint64) uint64) {
	if off, ok := v.at(name, 8); ok {
		binary.LittleEndian.PutUint64(v.want[off:], expect(binary.LittleEndian.Uint64(v.seen[off:])))
	}
}

// kexecGate is how far the handlers of exceptions are apart
// (KEXEC_DEBUG_EXC_HANDLER_SIZE, arch/x86/include/asm/kexec.h).
const kexecGate = 6

// gates fills the table of exceptions, which kernels have that can tell of one after
// they have left (CONFIG_KEXEC_DEBUG): trap gates of the code segment to the page's
// own handlers, where the page is when memory is mapped as it lies.
func (v *kexecVariables) gates(at uint64) {
	table, ok1 := v.at("kexec_debug_idt", 256)
	handlers, ok2 := v.at("kexec_debug_exc_vectors", 16*kexecGate)
	if !ok1 || !ok2 {
		return
	}
	const codeSegment, trapGate = 0x10, 0x8f << 8
	for i := range uint64(16) {
		to := at + handlers + i*kexecGate
		gate := v.want[table+i*16:]
		binary.LittleEndian.PutUint64(gate, to&0xffff|codeSegment<<16|trapGate<<32|to>>16&0xffff<<48)
		binary.LittleEndian.PutUint64(gate[8:], to>>32)
	}
}
