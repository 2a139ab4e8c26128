/*
 * What the QEMU at hand offers to the trap: registers, memory, flush, reset.
 * offers.c knows where each QEMU has it, qemu.c only uses it.
 */
#ifndef PLUMBLINE_OFFERS_H
#define PLUMBLINE_OFFERS_H

#include "qemu.h"

/* The registers that the trap reads or writes; names[] is in this order. */
enum reg { RDI, RSI, RDX, RCX, R8, R9, RAX, RSP, RIP, GS_BASE, CR3, CR4, REGS };

/*
 * Finds all of it, within qemu_plugin_install. With false nothing may be
 * trapped, and offers_missing says why.
 */
bool offers_find(qemu_plugin_id_t id, const struct qemu_info *info);

/*
 * The name of what this QEMU lacks; NULL when all is there. What only shows when
 * the machine starts is told from then on.
 */
const char *offers_missing(void);

/* Calls translated for each block that QEMU translates. */
void offers_on_translate(qemu_plugin_id_t id, void (*translated)(struct qemu_plugin_tb *));
void offers_on_reset(void (*reset)(void *));

/* Calls hit on the CPU before it runs the instruction, with all registers in place. */
void offers_on_exec(struct qemu_plugin_insn *insn, void (*hit)(unsigned vcpu, void *userdata), void *userdata);

/* Within hit only, on the CPU's own thread. False when it cannot be read. */
bool offers_read(unsigned vcpu, enum reg r, uint64_t *value);

/* Within hit only: continues the CPU at pc. It returns only if that cannot be done. */
void offers_continue(unsigned vcpu, uint64_t pc, uint64_t ax, uint64_t sp);

/* Has all blocks translated anew, soon; from any thread. */
void offers_flush(void);

/*
 * Guest RAM at addr, as far as it lies together in QEMU, up to *len; NULL for
 * what is no RAM. The reference is kept for good.
 */
void *offers_map(uint64_t addr, uint64_t *len);

int offers_cpus(void);

#endif
