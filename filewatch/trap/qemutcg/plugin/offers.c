//go:build cgo

/*
 * Where each QEMU has what the trap needs. Nothing is asked of a version
 * number but the form of callbacks: what is exported decides.
 *
 *              QEMU 7.2, Debian 12      10.0, Debian 13            11.1
 * interface    1 (takes 0 to 1)         2 (takes 2 to 4)           7 (takes 7)
 * registers    x86_cpu_gdb_read_        qemu_plugin_read_          as 10.0
 *              register                 register
 * refusal      x86_cpu_gdb_write_       as 7.2                     qemu_plugin_write_register,
 *              register, cpu_loop_exit                             qemu_plugin_set_pc
 * flush        tb_flush                 tb_flush                   queue_tb_flush (from 10.2)
 * no RAM       cpu_physical_memory_     as 7.2                     address_space_is_io
 *              is_io                                               (from 10.2)
 *
 * QEMU's include/qemu/qemu-plugin.h (11.1: include/plugins/) has the interface,
 * plugins/loader.c the check of its number; what does not begin with
 * qemu_plugin_ is no interface, but exported by the binary for its modules.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "offers.h"

#define EXPORT __attribute__((visibility("default")))
#define WEAK __attribute__((weak))

struct byte_array { uint8_t *data; unsigned len; }; /* GLib GByteArray */
struct array { char *data; unsigned len; };         /* GLib GArray */

/* Weak: outside QEMU, in "go build" and "go test", they are absent. */
typedef void (*any_cb)(void);
typedef void (*insn_cb)(unsigned vcpu, void *userdata);
/* The userdata of these two came with version 7; before it QEMU does not look at it. */
extern WEAK void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t, any_cb, void *userdata);
extern WEAK void qemu_plugin_register_vcpu_init_cb(qemu_plugin_id_t, any_cb, void *userdata);
extern WEAK void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, insn_cb, int flags, void *);
extern WEAK int qemu_plugin_n_vcpus(void);   /* version 1 */
extern WEAK int qemu_plugin_num_vcpus(void); /* version 2 */
extern WEAK struct array *qemu_plugin_get_registers(void);
extern WEAK int qemu_plugin_read_register(void *handle, struct byte_array *); /* bool from version 6 */
extern WEAK int qemu_plugin_write_register(void *handle, struct byte_array *);
extern WEAK void qemu_plugin_set_pc(uint64_t); /* version 6 */
enum { CB_RW_REGS = 2, CB_RW_REGS_PC = 3 };

/*
 * The version that QEMU reads after it has loaded the library and before it
 * calls it: what is declared must lie in a range that QEMU does not tell until
 * then. Its functions tell it: 10.0 and 10.2 take 2 and later, 11.1 takes 7. (A
 * QEMU that has set_pc and ends at 6 refuses the plugin, in words of its own.)
 */
EXPORT int qemu_plugin_version = 1;

__attribute__((constructor)) static void declare_version(void)
{
	if (qemu_plugin_num_vcpus)
		qemu_plugin_version = qemu_plugin_set_pc ? 7 : 2;
}

static bool userdata_last; /* callbacks of version 7 end with it and have no id */

static void *(*get_cpu)(int);
static int (*gdb_read)(void *cpu, struct byte_array *, int);
static int (*gdb_write)(void *cpu, uint8_t *, int);
static void (*loop_exit)(void *cpu);
static void (*tb_flush)(void *cpu);
static void (*queue_tb_flush)(void *cpu);
static void (*run_exclusively)(void *cpu, void (*)(void *cpu, uint64_t data), uint64_t data);
static void *(*map)(void *space, uint64_t addr, uint64_t *len, bool is_write, uint64_t attrs);
static void *memory; /* the address space of guest-physical memory */
static bool (*is_io)(uint64_t addr);
static bool (*is_io_in)(void *space, uint64_t addr);
static void (*register_reset)(void (*)(void *), void *);
static struct byte_array *(*bytes_new)(void);
static struct byte_array *(*bytes_size)(struct byte_array *, unsigned);
static unsigned (*element_size)(struct array *);
static char *(*array_free)(struct array *, int segment);

static _Atomic(const char *) missing;
static const bool *tcg, *kvm; /* accelerators, chosen after the start */

static void lack(const char *name)
{
	const char *none = NULL;
	atomic_compare_exchange_strong(&missing, &none, name);
}

const char *offers_missing(void)
{
	const char *name = atomic_load(&missing);
	if (!name && ((tcg && !*tcg) || (kvm && *kvm)))
		return "emulation by TCG: it runs the guest on another accelerator, whose code plugins do not see";
	return name;
}

static void *may(const char *name) { return dlsym(RTLD_DEFAULT, name); }

static void *need(const char *name)
{
	void *p = may(name);
	if (!p)
		lack(name);
	return p;
}

/*
 * Names as in QEMU gdb-xml/i386-64bit.xml, by which the interface tells handles
 * apart, and numbers of x86_cpu_gdb_read_register (target/i386/gdbstub.c, v7.2):
 * rax rbx rcx rdx rsi rdi rbp rsp r8-r15, rip, eflags, cs ss ds es fs gs,
 * fs_base gs_base k_gs_base, cr0 cr2 cr3 cr4 cr8 efer.
 */
static const struct { const char *name; int gdb; } names[REGS] = {
	[RDI] = { "rdi", 5 }, [RSI] = { "rsi", 4 }, [RDX] = { "rdx", 3 }, [RCX] = { "rcx", 2 },
	[R8] = { "r8", 8 }, [R9] = { "r9", 9 }, [RAX] = { "rax", 0 }, [RSP] = { "rsp", 7 },
	[RIP] = { "rip", 16 }, [GS_BASE] = { "gs_base", 25 }, [CR3] = { "cr3", 29 }, [CR4] = { "cr4", 30 },
};

/* Of each CPU; NULL where the interface gives no registers. */
static struct handles { void *of[REGS]; } *handles;
static unsigned max_cpus;

/* qemu_plugin_reg_descriptor, of which version 6 has made a longer one. */
struct descriptor { void *handle; const char *name, *feature; };

/* Called in each CPU's thread before it runs, where handles may be asked for. */
static void cpu_starts(unsigned vcpu)
{
	if (vcpu >= max_cpus) {
		lack("a number of CPUs that stays");
		return;
	}
	struct array *all = qemu_plugin_get_registers();
	struct handles *h = &handles[vcpu];
	for (unsigned i = 0; i < all->len; i++) {
		const struct descriptor *d = (void *)(all->data + i * element_size(all));
		for (int r = 0; r < REGS; r++)
			if (!h->of[r] && !strcmp(d->name, names[r].name))
				h->of[r] = d->handle;
	}
	array_free(all, 1);
	for (int r = 0; r < REGS; r++)
		if (!h->of[r])
			lack(names[r].name);
}

static void cpu_starts_id(qemu_plugin_id_t id, unsigned vcpu) { (void)id; cpu_starts(vcpu); }
static void cpu_starts_userdata(unsigned vcpu, void *userdata) { (void)userdata; cpu_starts(vcpu); }

static void (*translated)(struct qemu_plugin_tb *);

static void translated_id(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) { (void)id; translated(tb); }
static void translated_userdata(struct qemu_plugin_tb *tb, void *userdata) { (void)userdata; translated(tb); }

void offers_on_translate(qemu_plugin_id_t id, void (*cb)(struct qemu_plugin_tb *))
{
	translated = cb;
	qemu_plugin_register_vcpu_tb_trans_cb(id, userdata_last ? (any_cb)translated_userdata : (any_cb)translated_id, NULL);
}

void offers_on_exec(struct qemu_plugin_insn *insn, void (*hit)(unsigned, void *), void *userdata)
{
	int flags = qemu_plugin_set_pc ? CB_RW_REGS_PC : CB_RW_REGS;
	qemu_plugin_register_vcpu_insn_exec_cb(insn, hit, flags, userdata);
}

void offers_on_reset(void (*reset)(void *)) { register_reset(reset, NULL); }

int offers_cpus(void)
{
	if (qemu_plugin_num_vcpus)
		return qemu_plugin_num_vcpus();
	return qemu_plugin_n_vcpus ? qemu_plugin_n_vcpus() : 0;
}

/* The thread's own buffer for one register. */
static struct byte_array *buffer(unsigned size)
{
	static __thread struct byte_array *b;
	if (!b && !(b = bytes_new()))
		return NULL;
	return bytes_size(b, size);
}

bool offers_read(unsigned vcpu, enum reg r, uint64_t *value)
{
	struct byte_array *b = buffer(0);
	void *cpu;
	if (!b)
		return false;
	if (handles && vcpu < max_cpus)
		qemu_plugin_read_register(handles[vcpu].of[r], b);
	else if (gdb_read && (cpu = get_cpu(vcpu)))
		gdb_read(cpu, b, names[r].gdb);
	if (b->len != sizeof *value)
		return false;
	memcpy(value, b->data, sizeof *value);
	return true;
}

static void write_official(unsigned vcpu, enum reg r, uint64_t value)
{
	struct byte_array *b = buffer(sizeof value);
	memcpy(b->data, &value, sizeof value);
	qemu_plugin_write_register(handles[vcpu].of[r], b);
}

void offers_continue(unsigned vcpu, uint64_t pc, uint64_t ax, uint64_t sp)
{
	void *cpu = get_cpu(vcpu);
	if (handles && qemu_plugin_set_pc) {
		write_official(vcpu, RAX, ax);
		write_official(vcpu, RSP, sp);
		qemu_plugin_set_pc(pc); /* does not return */
	} else if (cpu && gdb_write && loop_exit) {
		gdb_write(cpu, (uint8_t *)&ax, names[RAX].gdb);
		gdb_write(cpu, (uint8_t *)&sp, names[RSP].gdb);
		gdb_write(cpu, (uint8_t *)&pc, names[RIP].gdb);
		loop_exit(cpu); /* does not return */
	}
}

/*
 * tb_flush looks whether its CPU is in an exclusive section and, if so, takes it
 * that the caller is that CPU. Called from another thread at such a moment, as
 * when the last flush is still being carried out, it throws translated code away
 * while a CPU translates or runs it. So it is called where it may be: by the CPU
 * itself, alone. (QEMU v7.2 and v10.0 accel/tcg/tb-maint.c; run_on_cpu_data is a
 * union of eight bytes, include/hw/core/cpu.h.) queue_tb_flush of v10.2 is this
 * very thing.
 */
static void flush_exclusively(void *cpu, uint64_t data)
{
	(void)data;
	tb_flush(cpu);
}

void offers_flush(void)
{
	void *cpu = get_cpu(0);
	if (!cpu)
		return;
	if (queue_tb_flush)
		queue_tb_flush(cpu);
	else
		run_exclusively(cpu, flush_exclusively, 0);
}

/* Called from a CPU's thread, which QEMU has registered for RCU. */
void *offers_map(uint64_t addr, uint64_t *len)
{
	if (is_io ? is_io(addr) : is_io_in(memory, addr))
		return NULL;
	return map(memory, addr, len, false, 0); /* MemTxAttrs, at most eight bytes: none */
}

bool offers_find(qemu_plugin_id_t id, const struct qemu_info *info)
{
	if (strcmp(info->target_name, "x86_64") || !info->system_emulation)
		lack("an x86-64 machine");
	userdata_last = info->version.cur >= 7;
	get_cpu = need("qemu_get_cpu");
	bytes_new = need("g_byte_array_new");
	bytes_size = need("g_byte_array_set_size");
	if (qemu_plugin_get_registers && qemu_plugin_read_register) {
		element_size = need("g_array_get_element_size");
		array_free = need("g_array_free");
		max_cpus = info->system.max_vcpus;
		if (!(handles = calloc(max_cpus, sizeof *handles)))
			lack("memory");
	} else {
		gdb_read = need("x86_cpu_gdb_read_register");
	}
	gdb_write = may("x86_cpu_gdb_write_register");
	loop_exit = may("cpu_loop_exit");
	if (!(queue_tb_flush = may("queue_tb_flush"))) {
		tb_flush = need("tb_flush");
		run_exclusively = need("async_safe_run_on_cpu");
	}
	map = need("address_space_map");
	memory = need("address_space_memory");
	if (!(is_io = may("cpu_physical_memory_is_io")))
		is_io_in = need("address_space_is_io");
	register_reset = need("qemu_register_reset");
	tcg = may("tcg_allowed");
	kvm = may("kvm_allowed");
	if (atomic_load(&missing))
		return false;
	if (handles)
		qemu_plugin_register_vcpu_init_cb(id, userdata_last ? (any_cb)cpu_starts_userdata : (any_cb)cpu_starts_id, NULL);
	return true;
}
