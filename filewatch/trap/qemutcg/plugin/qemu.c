//go:build cgo

/*
 * The C of the trap plugin: QEMU calls these functions and they call Go's.
 * It decides nothing; see offers.c for where QEMU has what they need.
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "offers.h"
#include "_cgo_export.h"

#define EXPORT __attribute__((visibility("default")))
#define WEAK __attribute__((weak))

/* Weak: outside QEMU, in "go build" and "go test", they are absent. */
extern WEAK uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
extern WEAK size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern WEAK struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern WEAK uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);

/* The hooks: sorted, replaced whole. Old tables are kept: a CPU may be in one. */
struct table { size_t n; uint64_t addr[]; };
static _Atomic(struct table *) hooks;
static atomic_uint_fast64_t blind;

const char *pl_problem(void) { return offers_missing(); }
uint64_t pl_blind(void) { return atomic_load(&blind); }
int pl_cpus(void) { return offers_cpus(); }
void *pl_map(uint64_t addr, uint64_t *len) { return offers_map(addr, len); }

static void on_hook(unsigned vcpu, void *udata)
{
	struct stop s = { .pc = (uintptr_t)udata };
	const struct { enum reg r; uint64_t *value; } read[] = {
		{ RDI, &s.args[0] }, { RSI, &s.args[1] }, { RDX, &s.args[2] },
		{ RCX, &s.args[3] }, { R8, &s.args[4] }, { R9, &s.args[5] },
		{ RAX, &s.ax }, { RSP, &s.sp }, { GS_BASE, &s.gs_base }, { CR3, &s.cr3 }, { CR4, &s.cr4 },
	};
	for (size_t i = 0; i < sizeof read / sizeof read[0]; i++)
		if (!offers_read(vcpu, read[i].r, read[i].value)) {
			atomic_fetch_add(&blind, 1);
			return;
		}
	/*
	 * With "refuse" Go leaves the return address in args[0]: the function at
	 * its entry returns -EACCES to its caller.
	 */
	if (plumblineStop(vcpu, &s))
		offers_continue(vcpu, s.args[0], (uint64_t)-13, s.sp + 8);
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
static void on_translate(struct qemu_plugin_tb *tb)
{
	struct table *t = atomic_load_explicit(&hooks, memory_order_acquire);
	if (!t || !t->n || offers_missing())
		return;
	uint64_t first = qemu_plugin_tb_vaddr(tb);
	size_t i = lower(t, first), n = qemu_plugin_tb_n_insns(tb);
	if (i < t->n && t->addr[i] == first) {
		offers_on_exec(qemu_plugin_tb_get_insn(tb, 0), on_hook, (void *)(uintptr_t)first);
		i++;
	}
	if (n > 1 && i < t->n && t->addr[i] <= qemu_plugin_insn_vaddr(qemu_plugin_tb_get_insn(tb, n - 1)))
		atomic_fetch_add(&blind, 1);
}

void pl_set_hooks(const uint64_t *addrs, size_t n)
{
	struct table *t = malloc(sizeof *t + n * sizeof t->addr[0]);
	if (!t)
		return;
	t->n = n;
	memcpy(t->addr, addrs, n * sizeof t->addr[0]);
	atomic_store_explicit(&hooks, t, memory_order_release);
	offers_flush();
}

static void reset(void *opaque) { plumblineReset(); }

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const struct qemu_info *info, int argc, char **argv)
{
	const char *control = NULL;
	for (int i = 0; i < argc; i++)
		if (!strncmp(argv[i], "control=", 8))
			control = argv[i] + 8;
	bool found = offers_find(id, info);
	if (plumblineInstall((char *)control))
		return -1;
	if (found) {
		offers_on_reset(reset);
		offers_on_translate(id, on_translate);
	}
	return 0;
}
