package lab

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// xenTampers change the hypervisor of a machine that boots one.
var xenTampers = []Tamper{
	{
		Name: "xen-text", Check: "xen.text",
		Doc:   "change an instruction of a function that is called when Xen reboots",
		apply: writeXen("machine_restart", 5, []byte{0xcc}),
	},
	{
		Name: "xen-call", Check: "xen.text",
		Doc:   "make a call in Xen's code go to another function",
		apply: retargetXenCall,
	},
	{
		Name: "xen-rodata", Check: "xen.rodata",
		Doc:   "change a byte of Xen's read-only data",
		apply: writeXen("symbols_markers", 8, []byte{0x7f, 0x7f, 0x7f, 0x7f}),
	},
	{
		Name: "xen-exception-table", Check: "xen.tables",
		Doc:   "make a fault in Xen's code go on elsewhere",
		apply: writeXen("__start___ex_table", 4, []byte{1, 2}),
	},
	{
		Name: "xen-hypercall-table", Check: "xen.hypercalls",
		Doc:   "point the kexec entry of the hypercall table at another function (Xen up to 4.16)",
		apply: hookHypercall,
	},
	{
		Name: "xen-syscall-stub", Check: "xen.hypercalls",
		Doc:   "make the stub of CPU 0 for system calls of 32-bit code jump elsewhere",
		apply: hookStub,
	},
	{
		Name: "xen-idt-gate", Check: "xen.idt",
		Doc:   "point interrupt gate 9 at the handler of another exception",
		apply: hookXenGate,
	},
	{
		Name: "xen-idt-privilege", Check: "xen.idt",
		Doc:   "let guests raise interrupt 9 through its gate",
		apply: openGate,
	},
	{
		Name: "xen-page-writable-text", Check: "xen.pagetables",
		Doc:   "make a page of Xen's code writable",
		apply: changeXenRights("_stext", entryWritable, 0),
	},
	{
		Name: "xen-page-executable-data", Check: "xen.pagetables",
		Doc:   "make a page of Xen's data executable",
		apply: changeXenRights("domain_list", 0, entryNoExecute),
	},
	{
		Name: "xen-page-user", Check: "xen.pagetables",
		Doc:   "open the mapping of Xen's code to guests",
		apply: changeXenRights("_stext", entryUser, 0),
	},
	{
		Name: "xen-page-alias", Check: "xen.pagetables",
		Doc:   "map a page of Xen's code a second time, writable, where the code of its boot was",
		apply: addXenAlias,
	},
	{
		Name: "xen-cr0-wp", Check: "xen.registers",
		Doc:   "clear CR0.WP of CPU 0, so that Xen may write read-only pages",
		apply: clearBit("cr0", 16),
	},
	{
		Name: "xen-domain-hidden", Check: "xen.domains",
		Doc:   "take the first domain out of the list of domains",
		apply: writeXen("domain_list", 0, make([]byte, 8)),
	},
}

// ofXen marks tampers as such of a hypervisor.
func ofXen(list []Tamper) []Tamper {
	out := slices.Clone(list)
	for i := range out {
		out[i].Xen = true
	}
	return out
}

// writeXen stores bytes at an offset from a symbol.
func writeXen(symbol string, offset uint64, data []byte) func(context.Context, *change) error {
	return func(ctx context.Context, c *change) error {
		at, err := c.xenSymbols(symbol)
		if err != nil {
			return err
		}
		return c.write(ctx, at[0]+offset, data)
	}
}

func changeXenRights(symbol string, set, clear uint64) func(context.Context, *change) error {
	return func(ctx context.Context, c *change) error {
		at, err := c.xenSymbols(symbol)
		if err != nil {
			return err
		}
		return c.changeEntry(ctx, at[0], set, clear)
	}
}

// retargetXenCall changes the first call of a function that is called when Xen
// reboots.
func retargetXenCall(ctx context.Context, c *change) error {
	at, err := c.xenSymbols("machine_restart", "machine_halt")
	if err != nil {
		return err
	}
	mem, err := c.memory(ctx)
	if err != nil {
		return err
	}
	code := make([]byte, 256)
	if err := mem.read(at[0], code); err != nil {
		return err
	}
	for i := range len(code) - 5 {
		after := at[0] + uint64(i) + 5
		target := after + uint64(int64(int32(binary.LittleEndian.Uint32(code[i+1:]))))
		if code[i] == opcodeCall && target > at[0]-1<<22 && target < at[0]+1<<22 {
			return c.write(ctx, after-4, binary.LittleEndian.AppendUint32(nil, uint32(at[1]-after)))
		}
	}
	return errors.New("machine_restart calls nothing")
}

// hypercallKexec is used by nothing in the machine (include/public/xen.h:
// __HYPERVISOR_kexec_op); an entry has a pointer for 64-bit and one for 32-bit
// guests.
const hypercallKexec = 37

func hookHypercall(ctx context.Context, c *change) error {
	at, err := c.xenSymbols("pv_hypercall_table", "machine_halt")
	if err != nil {
		return err
	}
	return c.write(ctx, at[0]+16*hypercallKexec, word(at[1]))
}

// hookStub moves the target of the second stub of CPU 0 (x86_64/traps.c,
// alloc_stub_page: the page before the last of the image's gigabyte; the jump's
// displacement is at 24 of the stub).
func hookStub(ctx context.Context, c *change) error {
	const stub, displacement = 0xffff_82d0_7fff_e020, 24
	mem, err := c.memory(ctx)
	if err != nil {
		return err
	}
	var old [4]byte
	if err := mem.read(stub+displacement, old[:]); err != nil {
		return err
	}
	return c.write(ctx, stub+displacement, binary.LittleEndian.AppendUint32(nil, binary.LittleEndian.Uint32(old[:])+4))
}

func hookXenGate(ctx context.Context, c *change) error {
	at, err := c.xenSymbols("bounds|entry_BR")
	if err != nil {
		return err
	}
	return c.setGate(ctx, at[0])
}

// addXenAlias finds a free entry where the code of boot was, which Xen unmaps.
func addXenAlias(ctx context.Context, c *change) error {
	at, err := c.xenSymbols("_stext", "_sinittext")
	if err != nil {
		return err
	}
	code, err := c.leaf(ctx, at[0])
	if err != nil {
		return err
	}
	entries, err := c.mem.walk(at[1])
	if err != nil {
		return err
	}
	last := entries[len(entries)-1]
	if last.value&entryPresent != 0 || last.shift != 12 {
		return fmt.Errorf("the code of boot is mapped: %#x", last.value)
	}
	return c.writePhys(ctx, last.phys, code.value&entryAddress&^(1<<code.shift-1)|entryPresent|entryWritable|entryNoExecute)
}
