package lab

import "context"

// textTampers change code. The functions chosen are ones an idle machine does
// not run, so that the machine survives being measured in this state.
var textTampers = []Tamper{
	{
		Name: "kernel-text", Check: "linux.text",
		Doc:   "flip one bit in the kernel's code, inside the acct system call",
		apply: flipByte("__x64_sys_acct", 12),
	},
	{
		Name: "kvm-amd-text", Check: "modules.text",
		Doc:   "flip one bit in kvm_amd's code, inside the function that leaves AMD-V",
		apply: flipByte("svm_hardware_unsetup", 12),
	},
}

// flipByte inverts a bit of the byte at symbol+offset.
func flipByte(symbol string, offset uint64) func(context.Context, *change) error {
	return func(ctx context.Context, c *change) error {
		at, err := c.symbols(ctx, symbol)
		if err != nil {
			return err
		}
		address := at[0] + offset
		mem, err := c.memory(ctx)
		if err != nil {
			return err
		}
		var old [1]byte
		if err := mem.read(address, old[:]); err != nil {
			return err
		}
		return c.write(ctx, address, []byte{old[0] ^ 0x10})
	}
}
