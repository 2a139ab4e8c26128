package check

// vectorHandlers returns the names of the entry points that a vector may have.
//
// Sources: exceptions, arch/x86/include/asm/trapnr.h and idtentry.h; system
// vectors, arch/x86/include/asm/irq_vectors.h, which counts them down from 0xff
// with numbers that have not changed since 4.x (uv_bau at 0xf5 went in 5.9,
// kvm_posted_intr_* came to 0xf0..0xf2, posted MSI to 0xeb in 6.11,
// the guest PMI to 0xf5 in 7.0).
func vectorHandlers(vector int) []string {
	if name, ok := exceptions[vector]; ok {
		return []string{"asm_exc_" + name}
	}
	switch vector {
	case 0x20:
		return []string{"asm_sysvec_irq_move_cleanup"}
	case 0x80: // emulated since 6.7 and in stable kernels
		return []string{"asm_int80_emulation", "int80_emulation", "entry_INT80_compat", "asm_exc_int80_emulation"}
	}
	if vector == hypervisorCallback {
		return hypervisorCallbacks
	}
	if name, ok := systemVectors[vector]; ok {
		return []string{"asm_sysvec_" + name}
	}
	return nil
}

// hypervisorCallback is HYPERVISOR_CALLBACK_VECTOR. A kernel is built for several
// hypervisors, and the one that it finds itself under gives the gate its entry:
// hypervisorCallbacks are those of KVM (asynchronous page faults;
// arch/x86/kernel/kvm.c), Hyper-V (cpu/mshyperv.c), Xen (drivers/xen/events) and
// ACRN (cpu/acrn.c), by the same names since 5.9 (idtentry.h).
const hypervisorCallback = 0xf3

var hypervisorCallbacks = []string{
	"asm_sysvec_kvm_asyncpf_interrupt", "asm_sysvec_hyperv_callback",
	"asm_sysvec_xen_hvm_callback", "asm_sysvec_acrn_hv_callback",
}

var exceptions = map[int]string{
	0: "divide_error", 1: "debug", 2: "nmi", 3: "int3", 4: "overflow",
	5: "bounds", 6: "invalid_op", 7: "device_not_available", 8: "double_fault",
	9: "coproc_segment_overrun", 10: "invalid_tss", 11: "segment_not_present",
	12: "stack_segment", 13: "general_protection", 14: "page_fault",
	15: "spurious_interrupt_bug", 16: "coprocessor_error", 17: "alignment_check",
	18: "machine_check", 19: "simd_coprocessor_error", 20: "virtualization_exception",
	21: "control_protection", 29: "vmm_communication",
}

var systemVectors = map[int]string{
	0xff: "spurious_apic_interrupt", 0xfe: "error_interrupt", 0xfd: "reschedule_ipi",
	0xfc: "call_function", 0xfb: "call_function_single", 0xfa: "thermal",
	0xf9: "threshold", 0xf8: "reboot", 0xf7: "x86_platform_ipi", 0xf6: "irq_work",
	0xf5: "perf_guest_mediated_pmi_handler", 0xf4: "deferred_error", 0xf2: "kvm_posted_intr_ipi",
	0xf1: "kvm_posted_intr_wakeup_ipi", 0xf0: "kvm_posted_intr_nested_ipi",
	0xee: "hyperv_reenlightenment", 0xed: "hyperv_stimer0",
	0xec: "apic_timer_interrupt", 0xeb: "posted_msi_notification",
}
