package lab

import (
	"context"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
)

// tableTampers change the tables through which the processor and the kernel
// find code.
var tableTampers = []Tamper{
	{
		Name: "syscall-table", Check: "linux.syscalls",
		Doc:   "point the acct entry of the system call table at another function",
		apply: hookTable("sys_call_table", sysAcct, "__x64_sys_getpid"),
	},
	{
		Name: "syscall-dispatch", Check: "linux.text",
		Doc:   "make the dispatcher of 32-bit system calls branch to another function for acct",
		apply: hookDispatch,
	},
	{
		Name: "idt-gate", Check: "linux.idt",
		Doc:   "point interrupt gate 9 at the handler of another exception",
		apply: hookGate,
	},
	{
		Name: "idt-privilege", Check: "linux.idt",
		Doc:   "let user mode raise interrupt 9 through its gate",
		apply: openGate,
	},
	{
		Name: "gdt-call-gate", Check: "linux.gdt",
		Doc:   "put a call gate that user mode may use into the slot of CPU 0's GDT that is kept for local tables",
		apply: addCallGate,
	},
	{
		Name: "ldt-call-gate", Check: "linux.gdt",
		Doc:   "put a call gate into the local descriptor table of a process",
		apply: addLocalCallGate,
	},
	{
		Name: "tss-stack", Check: "linux.gdt",
		Doc:   "move the double fault stack of CPU 0 in its TSS",
		apply: moveStack,
	},
}

// sysAcct is the number of the acct system call, used by nothing in the
// machine (Linux, arch/x86/entry/syscalls/syscall_64.tbl).
const sysAcct = 163

// hookTable points an entry of a table of pointers at another function.
func hookTable(table string, entry uint64, function string) func(context.Context, *change) error {
	return func(ctx context.Context, c *change) error {
		at, err := c.symbols(ctx, table, function)
		if err != nil {
			return err
		}
		return c.write(ctx, at[0]+8*entry, word(at[1]))
	}
}

// hookDispatch retargets one branch of ia32_sys_call, which since 6.9, and its
// backports to stable kernels, dispatches by code and not by the table. No
// 32-bit program runs in the machine.
func hookDispatch(ctx context.Context, c *change) error {
	at, err := c.symbols(ctx, "ia32_sys_call", "__ia32_sys_acct|__x64_sys_acct", "commit_creds")
	if err != nil {
		return err
	}
	mem, err := c.memory(ctx)
	if err != nil {
		return err
	}
	code := make([]byte, 16<<10)
	if err := mem.read(at[0], code); err != nil {
		return err
	}
	for i := range len(code) - 5 {
		after := at[0] + uint64(i) + 5
		displacement := binary.LittleEndian.Uint32(code[i+1:])
		if (code[i] == opcodeCall || code[i] == opcodeJump) && displacement == uint32(at[1]-after) {
			return c.write(ctx, after-4, binary.LittleEndian.AppendUint32(nil, uint32(at[2]-after)))
		}
	}
	return fmt.Errorf("ia32_sys_call has no branch to acct: %w", ErrNoSubject)
}

// gate reads vector 9's gate, which no processor since the 386 raises. Source
// of its layout: Intel SDM, volume 3A, section 6.14.1.
func (c *change) gate(ctx context.Context) (address uint64, gate []byte, err error) {
	mem, err := c.memory(ctx)
	if err != nil {
		return 0, nil, err
	}
	gate = make([]byte, 16)
	address = mem.regs.idt + 16*9
	return address, gate, mem.read(address, gate)
}

func hookGate(ctx context.Context, c *change) error {
	at, err := c.symbols(ctx, "asm_exc_bounds")
	if err != nil {
		return err
	}
	return c.setGate(ctx, at[0])
}

// setGate points vector 9's gate at a handler.
func (c *change) setGate(ctx context.Context, handler uint64) error {
	address, gate, err := c.gate(ctx)
	if err != nil {
		return err
	}
	setGateOffset(gate, handler)
	return c.write(ctx, address, gate)
}

func setGateOffset(gate []byte, target uint64) {
	binary.LittleEndian.PutUint16(gate[0:], uint16(target))
	binary.LittleEndian.PutUint16(gate[6:], uint16(target>>16))
	binary.LittleEndian.PutUint32(gate[8:], uint32(target>>32))
}

func openGate(ctx context.Context, c *change) error {
	address, gate, err := c.gate(ctx)
	if err != nil {
		return err
	}
	const privilege3 = 0x60 // DPL in byte 5
	gate[5] |= privilege3
	return c.write(ctx, address, gate)
}

// gdtLDT is the first of two 8-byte slots of Linux's GDT that hold the local
// table of the process that runs (arch/x86/include/asm/segment.h, GDT_ENTRY_LDT).
// The kernel writes them only for a process that has one; what follows them it
// writes at each switch of tasks.
const gdtLDT = 10

// addCallGate writes a 64-bit call gate, two slots long (Intel SDM, volume 3A,
// section 5.8.3.1), to a kernel function.
func addCallGate(ctx context.Context, c *change) error {
	mem, err := c.memory(ctx)
	if err != nil {
		return err
	}
	at, err := c.symbols(ctx, "commit_creds")
	if err != nil {
		return err
	}
	gate := make([]byte, 16)
	setGateOffset(gate, at[0])
	binary.LittleEndian.PutUint16(gate[2:], 0x10) // __KERNEL_CS
	gate[5] = 0xec                                // present, DPL 3, call gate
	return c.write(ctx, mem.regs.gdt+8*gdtLDT, gate)
}

// moveStack changes IST1, at offset 0x24 of the TSS (Intel SDM, volume 3A,
// section 8.7), which Linux gives to double faults.
func moveStack(ctx context.Context, c *change) error {
	mem, err := c.memory(ctx)
	if err != nil {
		return err
	}
	const ist1 = 0x24
	stack, err := mem.readWord(mem.regs.tss + ist1)
	if err != nil {
		return err
	}
	return c.write(ctx, mem.regs.tss+ist1, word(stack-64))
}

// word is a pointer as it lies in memory.
func word(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }

// localSegment starts a process that makes a data segment of its own by
// modify_ldt (system call 154; struct user_desc, arch/x86/include/uapi/asm/ldt.h).
const (
	localSegment = `perl -e '
		$segment = pack("L4", 0, 0, 0xfffff, 0x51);
		exit 1 if syscall(154, 0x11, $segment, 16) != 0;
		open(F, ">", "/run/lab-ldt-made"); close(F);
		sleep 86400' <&- >/dev/null 2>&1 &
		echo $! > /run/lab-ldt
		for try in $(seq 3000); do if [ -e /run/lab-ldt-made ]; then exit 0; fi; sleep 0.1; done
		exit 1`
	noLocalSegment = `[ -e /run/lab-ldt ] || exit 0
		pid=$(cat /run/lab-ldt)
		kill $pid
		for try in $(seq 3000); do [ -d /proc/$pid ] || break; sleep 0.1; done
		rm -f /run/lab-ldt /run/lab-ldt-made`
)

// addLocalCallGate makes that segment a call gate into the kernel.
func addLocalCallGate(ctx context.Context, c *change) error {
	if err := c.shell(ctx, localSegment, noLocalSegment); err != nil {
		return err
	}
	text, err := c.machine.Shell(ctx, "cat /run/lab-ldt")
	if err != nil {
		return err
	}
	pid, err := strconv.ParseUint(strings.TrimSpace(text), 10, 31)
	if err != nil {
		return err
	}
	task, err := c.task(ctx, pid)
	if err != nil {
		return err
	}
	at := task
	for _, member := range [][2]string{{"task_struct", "mm"}, {"mm_struct", "context.ldt"}, {"ldt_struct", "entries"}} {
		offset, err := c.offset(ctx, member[0], member[1])
		if err != nil {
			return err
		}
		if at, err = c.mem.readWord(at + offset); err != nil {
			return err
		}
	}
	function, err := c.symbols(ctx, "commit_creds")
	if err != nil {
		return err
	}
	gate := make([]byte, 16)
	setGateOffset(gate, function[0])
	binary.LittleEndian.PutUint16(gate[2:], 0x10) // __KERNEL_CS
	gate[5] = 0xec                                // present, DPL 3, call gate
	return c.write(ctx, at, gate[:8])
}
