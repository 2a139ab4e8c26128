package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
)

// variableTampers change what the kernel calls by way of variables that no type
// describes, of the arrays, trees and lists of handlers behind them, and of variables
// of modules that no object leads to.
var variableTampers = []Tamper{
	{
		Name: "acpi-handler", Check: "linux.objects",
		Doc:   "point the variable through which the kernel is told of loaded ACPI tables at data",
		apply: hookField("acpi_gbl_table_handler", "", ""),
	},
	{
		Name: "hibernation-operations", Check: "linux.objects",
		Doc:   "point the variable with the operations of hibernation at a forged table",
		apply: forgeHibernation,
	},
	{
		Name: "rtnetlink-handler", Check: "linux.objects",
		Doc:   "point the handler of a message of rtnetlink, that which sets a table of neighbours, at data",
		apply: hookRtnetlink,
	},
	{
		Name: "irq-handler", Check: "linux.objects",
		Doc:   "point the handler of the interrupt of ACPI at data",
		apply: hookInterrupt,
	},
	{
		Name: "nmi-handler", Check: "linux.objects",
		Doc:   "point the first handler of non-maskable interrupts at data",
		apply: hookNMI,
	},
	{
		Name: "user-probe", Check: "linux.objects",
		Doc:   "point the handler of a probe in a program at data",
		apply: hookUserProbe,
	},
	{
		Name: "perf-operations", Check: "linux.objects",
		Doc:   "point what the kernel does for the performance counters of a guest that is entered at data",
		apply: hookField("x86_pmu", "x86_pmu", "guest_get_msrs"),
	},
	{
		Name: "module-driver", Check: "modules.pointers",
		Doc:   "point what a network driver's module does when its device goes at data",
		apply: hookSlot("virtio_net_driver", "virtnet_remove", pointerTarget, 0),
	},
	{
		Name: "module-driver-inside", Check: "modules.pointers",
		Doc:   "point what a network driver's module does when its device goes into the middle of a function of the kernel",
		apply: hookSlot("virtio_net_driver", "virtnet_remove", "vfs_read", 9),
	},
	{
		Name: "module-table", Check: "modules.pointers",
		Doc:   "give the driver of a module a copy of its table of operations, in a page of a process, with one of them changed",
		apply: forgeModuleTable,
	},
}

// forgeModuleTable changes what the driver of virtio's PCI devices does before the
// machine goes off after hibernation, which it never does.
func forgeModuleTable(ctx context.Context, c *change) error {
	h, err := c.hold(ctx, "/etc/passwd")
	if err != nil {
		return err
	}
	at, err := c.symbols(ctx, "virtio_pci_driver", "virtio_pci_pm_ops", "_end")
	if err != nil {
		return err
	}
	if at[0] < at[2] {
		return fmt.Errorf("virtio_pci is no module: %w", ErrNoSubject)
	}
	slot, err := c.findPointer(ctx, at[0], at[1], 512)
	if err != nil {
		return err
	}
	return c.forge(ctx, slot, h.room, "dev_pm_ops", "poweroff")
}

// forgeHibernation changes the end of hibernation, which the machine never does.
func forgeHibernation(ctx context.Context, c *change) error {
	h, err := c.hold(ctx, "/etc/passwd")
	if err != nil {
		return err
	}
	at, err := c.symbols(ctx, "hibernation_ops")
	if err != nil {
		return err
	}
	return c.forge(ctx, at[0], h.room, "platform_hibernation_ops", "leave")
}

// hookRtnetlink changes what any family does for a message that nothing sends
// here: RTM_SETNEIGHTBL (include/uapi/linux/rtnetlink.h).
func hookRtnetlink(ctx context.Context, c *change) error {
	const base, message = 16, 67 // RTM_BASE
	at, err := c.symbols(ctx, "rtnl_msg_handlers", pointerTarget)
	if err != nil {
		return err
	}
	mem, err := c.memory(ctx)
	if err != nil {
		return err
	}
	doit, err := c.offset(ctx, "rtnl_link", "doit")
	if err != nil {
		return err
	}
	table, err := mem.readWord(at[0]) // of PF_UNSPEC
	if err != nil {
		return err
	}
	link, err := mem.readWord(table + 8*(message-base))
	if err != nil {
		return err
	}
	return c.write(ctx, link+doit, word(at[1]))
}

// hookInterrupt changes the handler of interrupt 9, which comes when the machine's
// power button is pressed. A CPU has a pointer to the description of each of its
// interrupts (arch/x86/include/asm/hw_irq.h, vector_irq).
func hookInterrupt(ctx context.Context, c *change) error {
	const number, vectors = 9, 256
	at, err := c.symbols(ctx, "vector_irq", "__per_cpu_offset", pointerTarget)
	if err != nil {
		return err
	}
	mem, err := c.memory(ctx)
	if err != nil {
		return err
	}
	irq, err := c.offset(ctx, "irq_desc", "irq_data.irq")
	if err != nil {
		return err
	}
	for cpu := range uint64(c.machine.CPUs) {
		base, err := mem.readWord(at[1] + 8*cpu)
		if err != nil {
			return err
		}
		for vector := range uint64(vectors) {
			desc, err := mem.readWord(at[0] + base + 8*vector)
			if err != nil {
				return err
			}
			var raw [4]byte
			if desc>>56 != 0xff || mem.read(desc+irq, raw[:]) != nil || binary.LittleEndian.Uint32(raw[:]) != number {
				continue // unused, or shut down (an error number)
			}
			slot, err := c.follow(ctx, desc, "irq_desc.action", "irqaction.handler")
			if err != nil {
				return err
			}
			return c.write(ctx, slot, word(at[2]))
		}
	}
	return fmt.Errorf("no CPU has interrupt %d", number)
}

// hookNMI changes the handler that was registered last for NMIs of a CPU of its
// own.
func hookNMI(ctx context.Context, c *change) error {
	at, err := c.symbols(ctx, "nmi_desc", pointerTarget)
	if err != nil {
		return err
	}
	mem, err := c.memory(ctx)
	if err != nil {
		return err
	}
	head, err1 := c.offset(ctx, "nmi_desc", "head")
	link, err2 := c.offset(ctx, "nmiaction", "list")
	handler, err3 := c.offset(ctx, "nmiaction", "handler")
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	first, err := mem.readWord(at[0] + head)
	if err != nil {
		return err
	}
	if first == at[0]+head {
		return errors.New("there is no handler of NMIs")
	}
	return c.write(ctx, first-link+handler, word(at[1]))
}

// hookUserProbe puts a probe into a program that nothing runs while it is there.
func hookUserProbe(ctx context.Context, c *change) error {
	if err := c.shell(ctx, userProbe("true"), noUserProbe); err != nil {
		return err
	}
	at, err := c.symbols(ctx, "uprobes_tree", pointerTarget)
	if err != nil {
		return err
	}
	mem, err := c.memory(ctx)
	if err != nil {
		return err
	}
	node, err1 := c.offset(ctx, "uprobe", "rb_node")
	consumers, err2 := c.offset(ctx, "uprobe", "consumers")
	handler, err3 := c.offset(ctx, "uprobe_consumer", "handler")
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	link, err := c.offset(ctx, "uprobe_consumer", "cons_node") // since 6.12
	if err != nil {
		link = 0
	}
	top, err := mem.readWord(at[0])
	if err != nil {
		return err
	}
	consumer, err := mem.readWord(top - node + consumers)
	if err != nil {
		return err
	}
	return c.write(ctx, consumer-link+handler, word(at[1]))
}
