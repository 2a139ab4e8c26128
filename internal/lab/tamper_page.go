package lab

import (
	"context"
	"errors"
	"fmt"
)

// pageTampers change page tables: the same bytes with other rights, or in
// another place as well.
var pageTampers = []Tamper{
	{
		Name: "page-writable-text", Check: "linux.pagetables",
		Doc:   "make a page of kernel code writable",
		apply: changeRights("_text", 0, entryWritable, 0),
	},
	{
		Name: "page-executable-data", Check: "linux.pagetables",
		Doc:   "make a page of kernel data executable",
		apply: changeRights("_sdata", 0, 0, entryNoExecute),
	},
	{
		Name: "page-user-text", Check: "linux.pagetables",
		Doc:   "open the mapping of kernel code to user mode",
		apply: changeRights("_text", 0, entryUser, 0),
	},
	{
		Name: "page-direct-map", Check: "linux.pagetables",
		Doc:   "make the direct map's view of kernel code writable",
		apply: changeDirectMap,
	},
	{
		Name: "page-alias", Check: "linux.pagetables",
		Doc:   "map a page of kernel code a second time, writable, into a hole of the kernel's half",
		apply: addAlias,
	},
	{
		Name: "page-espfix", Check: "linux.pagetables",
		Doc:   "map the first GiB of memory a second time, writable, into the area of espfix stacks",
		apply: mapEspfix,
	},
	{
		Name: "page-process-table", Check: "linux.pagetables",
		Doc:   "map what the kernel maps first a second time into the kernel's half of a process that sleeps, open to user mode",
		apply: mapIntoProcess,
	},
	{
		Name: "kvm-page-writable", Check: "linux.pagetables",
		Doc:   "make a page of kvm's code writable",
		apply: changeRights("kvm_exit", 0, entryWritable, 0),
	},
}

// changeRights sets and clears bits in the entry that maps symbol+offset.
func changeRights(symbol string, offset, set, clear uint64) func(context.Context, *change) error {
	return func(ctx context.Context, c *change) error {
		at, err := c.symbols(ctx, symbol)
		if err != nil {
			return err
		}
		return c.changeEntry(ctx, at[0]+offset, set, clear)
	}
}

func (c *change) changeEntry(ctx context.Context, address, set, clear uint64) error {
	leaf, err := c.leaf(ctx, address)
	if err != nil {
		return err
	}
	return c.writePhys(ctx, leaf.phys, leaf.value&^clear|set)
}

// leaf is the entry that maps an address.
func (c *change) leaf(ctx context.Context, address uint64) (pageEntry, error) {
	mem, err := c.memory(ctx)
	if err != nil {
		return pageEntry{}, err
	}
	entries, err := mem.walk(address)
	if err != nil {
		return pageEntry{}, err
	}
	leaf := entries[len(entries)-1]
	if leaf.value&entryPresent == 0 {
		return leaf, fmt.Errorf("guest address %#x is not mapped", address)
	}
	return leaf, nil
}

// directMap reads where the kernel maps all of RAM.
func (c *change) directMap(ctx context.Context) (uint64, error) {
	at, err := c.symbols(ctx, "page_offset_base")
	if err != nil {
		return 0, err
	}
	mem, err := c.memory(ctx)
	if err != nil {
		return 0, err
	}
	return mem.readWord(at[0])
}

func changeDirectMap(ctx context.Context, c *change) error {
	at, err := c.symbols(ctx, "_text")
	if err != nil {
		return err
	}
	base, err := c.directMap(ctx)
	if err != nil {
		return err
	}
	phys, err := c.mem.translate(at[0])
	if err != nil {
		return err
	}
	return c.changeEntry(ctx, base+phys, entryWritable, 0)
}

// addAlias finds a free entry in a page table above kvm's code and maps a page
// of kernel code there.
func addAlias(ctx context.Context, c *change) error {
	at, err := c.symbols(ctx, "_text", "kvm_exit")
	if err != nil {
		return err
	}
	code, err := c.leaf(ctx, at[0])
	if err != nil {
		return err
	}
	const page, reach = 4096, 64 << 20
	for address := at[1] &^ (page - 1); address < at[1]+reach; {
		entries, err := c.mem.walk(address)
		if err != nil {
			return err
		}
		last := entries[len(entries)-1]
		if last.value == 0 && last.shift == 12 {
			const global, accessed, dirty = 1 << 8, 1 << 5, 1 << 6
			return c.writePhys(ctx, last.phys, code.value&entryAddress&^(1<<code.shift-1)|
				entryPresent|entryWritable|global|accessed|dirty)
		}
		address = address&^(1<<last.shift-1) + 1<<last.shift
	}
	return errors.New("no free page table entry near kvm's code")
}

// mapEspfix puts a page of 1 GiB into a free entry of the table of the area, which
// maps the same few pages many times over (arch/x86/kernel/espfix_64.c).
func mapEspfix(ctx context.Context, c *change) error {
	at, err := c.symbols(ctx, "espfix_pud_page")
	if err != nil {
		return err
	}
	mem, err := c.memory(ctx)
	if err != nil {
		return err
	}
	for i := range uint64(512) {
		entry, err := mem.readWord(at[0] + 8*i)
		if err != nil {
			return err
		}
		if entry == 0 {
			const large, accessed, dirty = 1 << 7, 1 << 5, 1 << 6
			return c.write(ctx, at[0]+8*i, word(entryPresent|entryWritable|entryNoExecute|large|accessed|dirty))
		}
	}
	return errors.New("the area of espfix stacks has no room")
}

// mapIntoProcess uses the first entry of the upper half, which Linux keeps free for
// hypervisors (Documentation/arch/x86/x86_64/mm.rst).
func mapIntoProcess(ctx context.Context, c *change) error {
	const first, entries = 256, 512
	h, err := c.hold(ctx, "/etc/passwd")
	if err != nil {
		return err
	}
	at, err := c.follow(ctx, h.task, "task_struct.mm", "mm_struct.pgd")
	if err != nil {
		return err
	}
	top, err := c.mem.readWord(at)
	if err != nil {
		return err
	}
	if free, err := c.mem.readWord(top + 8*first); err != nil || free != 0 {
		return errors.Join(err, fmt.Errorf("entry %d is %#x", first, free))
	}
	for i := uint64(first + 1); i < entries; i++ {
		entry, err := c.mem.readWord(top + 8*i)
		if err != nil {
			return err
		}
		if entry&entryPresent != 0 {
			return c.write(ctx, top+8*first, word(entry|entryUser))
		}
	}
	return errors.New("the process has no entry of the kernel's")
}
