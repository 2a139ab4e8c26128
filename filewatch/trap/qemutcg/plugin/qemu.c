//go:build cgo

/*
 * The C of the trap plugin: QEMU calls these functions and they call QEMU's.
 * It decides nothing; see qemu.h for where the declarations come from.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "qemu.h"
#include "_cgo_export.h"

#define EXPORT __attribute__((visibility("default")))
#define WEAK __attribute__((weak))

EXPORT int qemu_plugin_version = 1;

/* Weak: outside QEMU, in "go build" and "go test", they are absent. */
typedef void (*tb_trans_cb)(qemu_plugin_id_t, struct qemu_plugin_tb *);
typedef void (*insn_cb)(unsigned int vcpu, void *userdata);
extern WEAK void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, tb_trans_cb);
extern WEAK void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, insn_cb, int flags, void *);
extern WEAK uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
extern WEAK size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern WEAK struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern WEAK uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
extern WEAK int qemu_plugin_n_vcpus(void);
#define CB_RW_REGS 2

/* Exported by the QEMU binary; not part of any interface. */
struct byte_array { uint8_t *data; unsigned len; }; /* GLib GByteArray */
static void *(*get_cpu)(int);
static int (*read_register)(void *cpu, struct byte_array *, int);
static int (*write_register)(void *cpu, uint8_t *, int);
static void (*flush)(void *cpu);
static void (*run_exclusively)(void *cpu, void (*)(void *cpu, uint64_t data), uint64_t data);
static void (*loop_exit)(void *cpu);
static void *(*map)(uint64_t addr, uint64_t *len, bool is_write);
static bool (*is_io)(uint64_t addr);
static void (*on_reset)(void (*)(void *), void *);
static struct byte_array *(*array_new)(void);
static struct byte_array *(*array_size)(struct byte_array *, unsigned);

/*
 * Numbers of x86_cpu_gdb_read_register (QEMU target/i386/gdbstub.c and
 * gdb-xml/i386-64bit.xml): rax rbx rcx rdx rsi rdi rbp rsp r8-r15, rip, eflags,
 * cs ss ds es fs gs, fs_base gs_base k_gs_base, cr0 cr2 cr3 cr4 cr8 efer.
 */
enum { RAX = 0, RCX = 2, RDX = 3, RSI = 4, RDI = 5, RSP = 7, R8 = 8, R9 = 9, RIP = 16, GS_BASE = 25, CR3 = 29, CR4 = 30 };

/* The hooks: sorted, replaced whole. Old tables are kept: a CPU may be in one. */
struct table { size_t n; uint64_t addr[]; };
static _Atomic(struct table *) hooks;
static atomic_uint_fast64_t blind;

static const char *missing; /* found at start */
static const bool *tcg, *kvm; /* accelerators, chosen after the start */

const char *pl_problem(void)
{
	if (!missing && ((tcg && !*tcg) || (kvm && *kvm)))
		return "emulation by TCG: it runs the guest on another accelerator, whose code plugins do not see";
	return missing;
}

uint64_t pl_blind(void) { return atomic_load(&blind); }
int pl_cpus(void) { return qemu_plugin_n_vcpus ? qemu_plugin_n_vcpus() : 0; }

static uint64_t reg(void *cpu, struct byte_array *b, int n)
{
	uint64_t v = 0;
	array_size(b, 0);
	int len = read_register(cpu, b, n);
	if (len > 0 && (unsigned)len <= b->len)
		memcpy(&v, b->data, len < 8 ? len : 8);
	return v;
}

/* Makes the function at its entry return -EACCES to its caller. */
static void refuse(void *cpu, struct byte_array *b, const struct stop *s)
{
	uint64_t ax = (uint64_t)-13, sp = s->sp + 8, pc = s->args[0];
	write_register(cpu, (uint8_t *)&ax, RAX);
	write_register(cpu, (uint8_t *)&sp, RSP);
	write_register(cpu, (uint8_t *)&pc, RIP);
	loop_exit(cpu); /* does not return */
}

static void on_hook(unsigned int vcpu, void *udata)
{
	static __thread struct byte_array *b;
	void *cpu = get_cpu(vcpu);
	struct stop s;

	if (!cpu || (!b && !(b = array_new())))
		return;
	static const int args[6] = { RDI, RSI, RDX, RCX, R8, R9 };
	for (int i = 0; i < 6; i++)
		s.args[i] = reg(cpu, b, args[i]);
	s.ax = reg(cpu, b, RAX);
	s.sp = reg(cpu, b, RSP);
	s.pc = (uint64_t)(uintptr_t)udata;
	s.gs_base = reg(cpu, b, GS_BASE);
	s.cr3 = reg(cpu, b, CR3);
	s.cr4 = reg(cpu, b, CR4);
	/* With "refuse" Go leaves the return address in args[0]. */
	if (plumblineStop(vcpu, &s) && write_register && loop_exit)
		refuse(cpu, b, &s);
}

/* The first of the hooks that is not below addr. */
static size_t lower(const struct table *t, uint64_t addr)
{
	size_t lo = 0, hi = t->n;
	while (lo < hi) {
		size_t mid = (lo + hi) / 2;
		if (t->addr[mid] < addr)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

/*
 * Registers are whole only before the first instruction of a block. Functions
 * and return addresses start blocks, as calls and returns end them; a hook that
 * is met elsewhere is counted and reported.
 */
static void on_translate(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
	struct table *t = atomic_load_explicit(&hooks, memory_order_acquire);
	if (!t || !t->n)
		return;
	uint64_t first = qemu_plugin_tb_vaddr(tb);
	size_t i = lower(t, first), n = qemu_plugin_tb_n_insns(tb);
	if (i < t->n && t->addr[i] == first) {
		qemu_plugin_register_vcpu_insn_exec_cb(qemu_plugin_tb_get_insn(tb, 0), on_hook, CB_RW_REGS,
						       (void *)(uintptr_t)first);
		i++;
	}
	if (n > 1 && i < t->n && t->addr[i] <= qemu_plugin_insn_vaddr(qemu_plugin_tb_get_insn(tb, n - 1)))
		atomic_fetch_add(&blind, 1);
}

/*
 * tb_flush looks whether its CPU is in an exclusive section and, if so, takes it
 * that the caller is that CPU. Called from another thread at such a moment, as
 * when the last flush is still being carried out, it throws translated code away
 * while a CPU translates or runs it. So it is called where it may be: by the CPU
 * itself, alone. (QEMU accel/tcg/tb-maint.c; run_on_cpu_data is a union of eight
 * bytes, include/hw/core/cpu.h.)
 */
static void flush_exclusively(void *cpu, uint64_t data)
{
	(void)data;
	flush(cpu);
}

void pl_set_hooks(const uint64_t *addrs, size_t n)
{
	struct table *t = malloc(sizeof *t + n * sizeof t->addr[0]);
	if (!t)
		return;
	t->n = n;
	memcpy(t->addr, addrs, n * sizeof t->addr[0]);
	atomic_store_explicit(&hooks, t, memory_order_release);
	void *cpu = get_cpu(0);
	if (cpu) /* queued to run with all CPUs outside translated code */
		run_exclusively(cpu, flush_exclusively, 0);
}

/*
 * Guest RAM at addr, as far as it lies together in QEMU. Called from a CPU's
 * thread, which QEMU has registered for RCU. The reference is kept for good.
 */
void *pl_map(uint64_t addr, uint64_t *len)
{
	if (is_io(addr))
		return NULL;
	return map(addr, len, false);
}

static void reset(void *opaque) { plumblineReset(); }

static void *need(const char *name)
{
	void *p = dlsym(RTLD_DEFAULT, name);
	if (!p && !missing)
		missing = name;
	return p;
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info *info, int argc, char **argv)
{
	const char *control = NULL;
	for (int i = 0; i < argc; i++)
		if (!strncmp(argv[i], "control=", 8))
			control = argv[i] + 8;
	if (strcmp(info->target_name, "x86_64") || !info->system_emulation)
		missing = "an x86-64 machine";
	get_cpu = need("qemu_get_cpu");
	read_register = need("x86_cpu_gdb_read_register");
	flush = need("tb_flush");
	run_exclusively = need("async_safe_run_on_cpu");
	map = need("cpu_physical_memory_map");
	is_io = need("cpu_physical_memory_is_io");
	on_reset = need("qemu_register_reset");
	array_new = need("g_byte_array_new");
	array_size = need("g_byte_array_set_size");
	tcg = dlsym(RTLD_DEFAULT, "tcg_allowed");
	kvm = dlsym(RTLD_DEFAULT, "kvm_allowed");
	write_register = dlsym(RTLD_DEFAULT, "x86_cpu_gdb_write_register");
	loop_exit = dlsym(RTLD_DEFAULT, "cpu_loop_exit");
	if (plumblineInstall((char *)control))
		return -1;
	if (!missing) {
		on_reset(reset, NULL);
		qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
	}
	return 0;
}
