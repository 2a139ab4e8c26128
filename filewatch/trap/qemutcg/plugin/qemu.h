/*
 * What the trap plugin's C and Go share, with the types of QEMU's plugin
 * interface (QEMU include/qemu/qemu-plugin.h, v4.2 to v10.2; include/plugins/
 * after it), declared here because Debian 12 ships no plugin header.
 */
#ifndef PLUMBLINE_QEMU_H
#define PLUMBLINE_QEMU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;

/* qemu_info_t, the same in versions 1 to 7. */
struct qemu_info {
	const char *target_name;
	struct { int min, cur; } version;
	bool system_emulation;
	struct { int smp_vcpus, max_vcpus; } system;
};

/* What a stop hands to Go: 6 arguments, then the rest. */
struct stop {
	uint64_t args[6]; /* rdi rsi rdx rcx r8 r9 */
	uint64_t ax, sp, pc, gs_base, cr3, cr4;
};

const char *pl_problem(void);
void pl_set_hooks(const uint64_t *addrs, size_t n);
void *pl_map(uint64_t addr, uint64_t *len);
uint64_t pl_blind(void);
int pl_cpus(void);

#endif
