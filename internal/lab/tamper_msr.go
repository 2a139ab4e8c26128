package lab

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
)

// msrTampers change the registers of system calls. Neither the monitor nor the
// gdb stub writes them, and lockdown keeps the guest's root from doing so; under
// TCG they are words in QEMU's memory, where a module of an attacker's that runs
// in the guest's kernel would change them too, with WRMSR.
var msrTampers = []Tamper{
	{
		Name: "msr-lstar", Check: "linux.msrs",
		Doc:   "enter system calls of CPU 1 at a jump between two functions, which goes to the kernel's entry as a hook would in the end",
		apply: enterThroughJump,
	},
	{
		Name: "msr-sysenter", Check: "linux.msrs",
		Doc: "have SYSENTER of CPU 0 enter at another function",
		apply: func(ctx context.Context, c *change) error {
			target, err := c.symbols(ctx, "commit_creds")
			if err != nil {
				return err
			}
			return c.writeMSR(ctx, 0, msrSysenterEIP, target[0])
		},
	},
	{
		Name: "msr-fmask", Check: "linux.msrs",
		Doc: "let system calls of CPU 0 keep the alignment check flag, which opens processes' memory to the kernel",
		apply: func(ctx context.Context, c *change) error {
			return c.writeMSR(ctx, 0, msrFMASK, fmask&^(1<<18))
		},
	},
}

// enterThroughJump puts a jump to the entry into what fills the space between two
// functions of entry text and points LSTAR there: the guest goes on as before.
func enterThroughJump(ctx context.Context, c *change) error {
	at, err := c.symbols(ctx, "entry_SYSCALL_64", "__entry_text_start", "__entry_text_end")
	if err != nil {
		return err
	}
	mem, err := c.memory(ctx)
	if err != nil {
		return err
	}
	text := make([]byte, at[2]-at[1])
	if err := mem.read(at[1], text); err != nil {
		return err
	}
	const jump = 5 // bytes: opcode and distance
	gap := bytes.Index(text, bytes.Repeat([]byte{0xcc}, 2*jump))
	if gap < 0 {
		return fmt.Errorf("entry text has no space left: %w", ErrNoSubject)
	}
	hook := at[1] + uint64(gap) + jump
	code := binary.LittleEndian.AppendUint32([]byte{0xe9}, uint32(at[0]-hook-jump))
	if err := c.write(ctx, hook, code); err != nil {
		return err
	}
	return c.writeMSR(ctx, 1, msrLSTAR, hook)
}

// writeMSR changes one register of a CPU in QEMU's memory.
func (c *change) writeMSR(ctx context.Context, cpu int, register int64, value uint64) error {
	entries, err := c.symbols(ctx, "entry_SYSCALL_64", "entry_SYSCALL_compat")
	if err != nil {
		return err
	}
	states, err := c.machine.cpuStates(ctx, entries[0], entries[1])
	if err != nil {
		return err
	}
	at := uint64(int64(states[cpu]) + register)
	old, err := c.machine.readProcess(at, 8)
	if err != nil {
		return err
	}
	if err := c.record(undoStep{Process: true, Address: at, Bytes: old}); err != nil {
		return err
	}
	return c.machine.writeProcess(at, word(value))
}
