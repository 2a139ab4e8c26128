package lab

import (
	"context"
	"encoding/binary"
)

// tableTampers change the tables through which the processor and the kernel
// find code.
var tableTampers = []Tamper{
	{
		Name: "syscall-table", Check: "linux.syscalls",
		Doc:   "point the acct entry of the system call table at another function",
		apply: hookSyscall,
	},
	{
		Name: "idt-gate", Check: "linux.idt",
		Doc:   "point interrupt gate 9 at the handler of another exception",
		apply: hookGate,
	},
}

// sysAcct is the number of the acct system call on x86-64 (Linux,
// arch/x86/entry/syscalls/syscall_64.tbl): used by nothing in the machine.
const sysAcct = 163

func hookSyscall(ctx context.Context, c *change) error {
	at, err := c.symbols(ctx, "sys_call_table", "__x64_sys_getpid")
	if err != nil {
		return err
	}
	return c.write(ctx, at[0]+8*sysAcct, word(at[1]))
}

// hookGate redirects vector 9, which no processor since the 386 raises. Source
// of the gate's layout: Intel SDM, volume 3A, section 6.14.1.
func hookGate(ctx context.Context, c *change) error {
	mem, err := c.memory(ctx)
	if err != nil {
		return err
	}
	at, err := c.symbols(ctx, "asm_exc_bounds")
	if err != nil {
		return err
	}
	gate := make([]byte, 16)
	address := mem.regs.idt + 16*9
	if err := mem.read(address, gate); err != nil {
		return err
	}
	binary.LittleEndian.PutUint16(gate[0:], uint16(at[0]))
	binary.LittleEndian.PutUint16(gate[6:], uint16(at[0]>>16))
	binary.LittleEndian.PutUint32(gate[8:], uint32(at[0]>>32))
	return c.write(ctx, address, gate)
}

// word is a pointer as it lies in memory.
func word(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }
