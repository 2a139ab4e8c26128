package lab

import (
	"context"
	"fmt"
)

// pointerTampers change pointers to code in data.
var pointerTampers = []Tamper{
	{
		Name: "kvm-ops", Check: "kvm.ops",
		Doc:   "point KVM's operation that sets a guest's RFLAGS into the middle of another function",
		apply: hookKVMOps("svm_set_rflags", "svm_get_rflags", 8),
	},
	{
		Name: "kvm-ops-swapped", Check: "kvm.ops",
		Doc:   "exchange one of KVM's operations for another, proper, function of kvm_amd",
		apply: hookKVMOps("svm_set_rflags", "svm_get_rflags", 0),
	},
	{
		Name: "kvm-ops-data", Check: "kvm.ops",
		Doc:   "point one of KVM's operations at data",
		apply: hookKVMOps("svm_set_rflags", "kvm_x86_ops", 0),
	},
}

// hookKVMOps finds the slot of kvm_x86_ops that holds the address of function
// and stores target+offset there.
func hookKVMOps(function, target string, offset uint64) func(context.Context, *change) error {
	return func(ctx context.Context, c *change) error {
		at, err := c.symbols(ctx, "kvm_x86_ops", function, target)
		if err != nil {
			return err
		}
		slot, err := c.findPointer(ctx, at[0], at[1], 512)
		if err != nil {
			return err
		}
		return c.write(ctx, slot, word(at[2]+offset))
	}
}

// findPointer searches the first words of a table for a pointer.
func (c *change) findPointer(ctx context.Context, table, want uint64, words uint64) (slot uint64, err error) {
	mem, err := c.memory(ctx)
	if err != nil {
		return 0, err
	}
	for i := range words {
		value, err := mem.readWord(table + 8*i)
		if err != nil {
			return 0, err
		}
		if value == want {
			return table + 8*i, nil
		}
	}
	return 0, fmt.Errorf("the table at %#x holds no pointer to %#x", table, want)
}
