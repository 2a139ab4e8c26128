package lab

import (
	"context"
	"fmt"

	"github.com/plumbline-sec/plumbline/internal/gdbstub"
)

// registerTampers change a CPU's control registers, through the gdb stub. The
// kernel sets CR4 anew at times, so these may wear off by themselves.
var registerTampers = []Tamper{
	{
		Name: "cr0-wp", Check: "linux.registers",
		Doc:   "clear CR0.WP of CPU 0, so that the kernel may write read-only pages",
		apply: clearBit("cr0", 16),
	},
	{
		Name: "cr4-smep", Check: "linux.registers",
		Doc:   "clear CR4.SMEP of CPU 0, so that the kernel may run code of processes",
		apply: clearBit("cr4", 20),
	},
	{
		Name: "cr4-smap", Check: "linux.registers",
		Doc:   "clear CR4.SMAP of CPU 0, so that the kernel may read data of processes unawares",
		apply: clearBit("cr4", 21),
	},
	{
		Name: "cr4-umip", Check: "linux.registers",
		Doc:   "clear CR4.UMIP of CPU 0, so that processes may read where the tables lie",
		apply: clearBit("cr4", 11),
	},
}

func clearBit(register string, bit int) func(context.Context, *change) error {
	return func(ctx context.Context, c *change) error {
		stub, err := gdbstub.Dial(ctx, c.machine.GDB)
		if err != nil {
			return err
		}
		defer stub.Close()
		value, err := stub.ReadRegister(0, register)
		if err != nil {
			return err
		}
		if value&(1<<bit) == 0 {
			return fmt.Errorf("bit %d of %s is clear already: %#x", bit, register, value)
		}
		if err := c.record(undoStep{Register: register, Value: value}); err != nil {
			return err
		}
		return stub.WriteRegister(0, register, value&^(1<<bit))
	}
}

func (c *change) writeRegister(ctx context.Context, cpu int, register string, value uint64) error {
	stub, err := gdbstub.Dial(ctx, c.machine.GDB)
	if err != nil {
		return err
	}
	defer stub.Close()
	return stub.WriteRegister(cpu, register, value)
}
