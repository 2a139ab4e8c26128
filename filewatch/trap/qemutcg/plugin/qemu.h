/*
 * What the trap plugin uses of QEMU, declared here because Debian ships no
 * plugin header: the plugin interface of version 1 (QEMU include/qemu/
 * qemu-plugin.h, v4.2 to v8.2) and, by dlsym, functions that the QEMU binary
 * exports for its own modules.
 */
#ifndef PLUMBLINE_QEMU_H
#define PLUMBLINE_QEMU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;

/* qemu_info_t, API version 1. */
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
