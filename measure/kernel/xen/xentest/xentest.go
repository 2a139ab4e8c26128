// Package xentest makes a small Xen for tests: its file, and the memory and
// registers of a machine that has booted it. It holds one of each thing that
// package xen and the checks of a Xen look at, laid out by hand.
package xentest

import (
	"encoding/binary"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Base is where Xen is linked; Phys is where the test machine has it.
const (
	Base mem.Virt = 0xffff_82d0_4020_0000
	Phys mem.Phys = 0x20_0000
)

// Offsets into the image.
const (
	Alternative = 0x2100 // site of an alternative for feature 0x21, applied
	Twin        = 0x2120 // another one of the same feature
	Untouched   = 0x2140 // site of an alternative for feature 0x22, not applied
	Call        = 0x2160 // site of an indirect call that becomes direct
	CallTwin    = 0x2180 // another one through the same pointer
	Cold        = 0x2200 // code that nothing changes
	Text        = 0x2f00 // end of text

	Rodata     = 0x3000
	SetAtBoot  = 0x3000 // up to 0x3200
	Exceptions = 0x3200 // three entries, then one of pre_ex_table
	Hypercalls = 0x3300 // pv_hypercall_table
	Constant   = 0x3500
	symbols    = 0x4000
	note       = 0x7fc0
	RodataEnd  = 0x8000

	initData   = 0x8000
	alts       = 0x8100
	entries    = 0x9000
	initEnd    = 0xa000
	Data       = 0xa000
	cpuData    = 0xa100
	domainList = 0xa200
	specials   = 0xa300 // dom_io and dom_xen
	pool       = 0xa400 // ebmalloc_mem, up to 0xa500
	perCPU     = 0xa500 // idt_tables, __per_cpu_offset, curr_vcpu, hsa, host_vmcb: of one CPU
	domainHash = 0xb000
	IDT        = 0xc000
	Tables     = 0xd000 // idle_pg_table
	size       = 0xe000
)

// functions are symbols of text.
var functions = map[string]int{
	"_stext": 0, "xen_major_version": 0x100, "xen_minor_version": 0x110, "xen_extra_version": 0x120,
	"lstar_enter": 0x200, "cstar_enter": 0x240, "sysenter_entry": 0x280, "hvm_domain_use_pirq": 0x300, "get_domain_by_id": 0x320,
	"divide_error": 0x400, "debug": 0x410, "nmi": 0x420, "int3": 0x430, "overflow": 0x440, "bounds": 0x450, "invalid_op": 0x460,
	"device_not_available": 0x470, "double_fault": 0x480, "invalid_TSS": 0x490, "segment_not_present": 0x4a0, "stack_segment": 0x4b0,
	"general_protection": 0x4c0, "page_fault": 0x4d0, "coprocessor_error": 0x4e0, "alignment_check": 0x4f0, "machine_check": 0x500,
	"simd_coprocessor_error": 0x510, "entry_CP": 0x520, "int80_direct_trap": 0x530,
	"p2m_final_teardown": 0x600, "p2m_alloc_table": 0x640, "domain_unpause": 0x680, "svm_asm_do_resume": 0x6c0, "page_get_owner_and_reference": 0x700, "filler": 0x740,
	"stubs": 0x1000, "patched": 0x2100, "cold": Cold, "first": 0x2300, "second": 0x2340, "marked": 0x2380,
}

// symbolsOfData are those of other parts.
var symbolsOfData = map[string]int{
	"_etext": Text, "__2M_rodata_start": Rodata, "__ro_after_init_start": SetAtBoot, "__ro_after_init_end": SetAtBoot + 0x200,
	"__start___ex_table": Exceptions, "__stop___ex_table": Exceptions + 24, "__start___pre_ex_table": Exceptions + 24, "__stop___pre_ex_table": Exceptions + 32,
	"pv_hypercall_table": Hypercalls, "constant": Hypercalls + 32, "__2M_rodata_end": RodataEnd, "__init_begin": initData, "_einittext": initData + 0x40,
	"__alt_instructions": alts, "__alt_instructions_end": alts + 5*14, "__initdata_cf_clobber_start": alts + 0x100, "__initdata_cf_clobber_end": alts + 0x108,
	"autogen_entrypoints": entries, "__init_end": initEnd, "boot_cpu_data": cpuData, "domain_list": domainList, "after": domainList + 8, "dom_io": specials, "dom_xen": specials + 8,
	"common/efi/ebmalloc.c#ebmalloc_mem": pool, "idt_tables": perCPU, "__per_cpu_offset": perCPU + 8, "per_cpu__curr_vcpu": perCPU + 16,
	"arch/x86/hvm/svm/svm.c#per_cpu__hsa": perCPU + 24, "arch/x86/hvm/svm/svm.c#per_cpu__host_vmcb": perCPU + 32, "after_per_cpu": perCPU + 40, "common/domain.c#domain_hash": domainHash, "idt_table": IDT,
	"idle_pg_table": Tables, "_end": size,
}

// Exceptions have an entry of their own by vector.
var exceptions = map[int]string{
	0: "divide_error", 1: "debug", 2: "nmi", 3: "int3", 4: "overflow", 5: "bounds", 6: "invalid_op", 7: "device_not_available",
	8: "double_fault", 10: "invalid_TSS", 11: "segment_not_present", 12: "stack_segment", 13: "general_protection", 14: "page_fault",
	16: "coprocessor_error", 17: "alignment_check", 18: "machine_check", 19: "simd_coprocessor_error", 21: "entry_CP", 0x80: "int80_direct_trap",
}

// Address is that of a symbol.
func Address(name string) mem.Virt {
	off, ok := functions[name]
	if !ok {
		if off, ok = symbolsOfData[name]; !ok {
			panic("xentest: no symbol " + name)
		}
	}
	return Base + mem.Virt(off)
}

// image is what the file has at Base.
type image []byte

func (b image) put32(off int, v uint32)    { binary.LittleEndian.PutUint32(b[off:], v) }
func (b image) put64(off int, v uint64)    { binary.LittleEndian.PutUint64(b[off:], v) }
func (b image) rel(off, to int)            { b.put32(off, uint32(to-off)) } // from where it is stored
func (b image) branch(off, to int)         { b.put32(off, uint32(to-off-4)) }
func (b image) code(off int, code ...byte) { copy(b[off:], code) }

// fresh makes the image as it is in the file.
func fresh() image {
	b := make(image, size)
	for i := range Text {
		b[i] = 0x90
	}
	b.put32(0x40, 0x1bad_b002) // multiboot header
	b.put32(0x44, 3)
	b.put32(0x48, -(0x1bad_b002+3)&0xffff_ffff)
	b.code(0x100, 0xb8, 4, 0, 0, 0, 0xc3)
	b.code(0x110, 0xf3, 0x0f, 0x1e, 0xfa, 0xb8, 17, 0, 0, 0, 0xc3)
	b.code(0x120, 0x48, 0x8d, 0x05)
	b.branch(0x123, Constant)
	copy(b[Constant:], ".0-test\x00")
	b.code(0x300, 0xf6, 0x87, 0x3c, 1, 0, 0, 1)
	b.code(0x320, 0x48, 0x8b, 0x14, 0xfa, 0x48, 0x8b, 0x92, 0x90, 0, 0, 0)
	b.code(0x2380, 0xf3, 0x0f, 0x1e, 0xfa)
	b.assisted()
	b.alternatives()
	for i := range 3 {
		b.rel(Exceptions+8*i, 0x2240-16*i) // not in order
		b.rel(Exceptions+8*i+4, 0x2250-16*i)
	}
	b.rel(Exceptions+24, 0x2260)
	b.rel(Exceptions+28, 0x2270)
	b.put64(Hypercalls, uint64(Address("first")))
	b.put64(Hypercalls+8, uint64(Address("second")))
	for v := range 256 {
		if _, own := exceptions[v]; !own {
			b.put64(entries+8*v, uint64(Base)+0x1000+uint64(16*v))
		}
	}
	putSymbols(b[symbols:note])
	copy(b[note:], "\x04\x00\x00\x00\x14\x00\x00\x00\x03\x00\x00\x00GNU\x00build-id-of-20-bytes")
	return b
}

// alternatives writes sites, replacements and their table.
func (b image) alternatives() {
	b.code(initData+0x80, 0x0f, 0x01, 0xca)                   // CLAC
	b.code(initData+0x90, 0xe8, 0xfb, 0xff, 0xff, 0xff, 0x90) // CALL to itself
	for i, a := range []struct {
		at, repl, feature, orig, size, padding int
	}{
		{Alternative, initData + 0x80, 0x21, 0, 3, 3},
		{Twin, initData + 0x80, 0x21, 0, 3, 3},
		{Untouched, initData + 0x80, 0x22, 0, 3, 3},
		{Call, initData + 0x90, 0x23, 6, 5, 0},
		{CallTwin, initData + 0x90, 0x23, 6, 5, 0},
	} {
		at := alts + 14*i
		b.rel(at, a.at)
		b.rel(at+4, a.repl)
		b[at+8], b[at+10], b[at+11], b[at+12] = byte(a.feature), byte(a.orig), byte(a.size), byte(a.padding)
	}
	for _, at := range []int{Call, CallTwin} {
		b.code(at, 0xff, 0x15)
		b.branch(at+2, Data)
	}
	b.put64(alts+0x100, uint64(Address("marked")))
}
