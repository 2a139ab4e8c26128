package lab

import (
	"context"
	"encoding/binary"
)

// textTampers change code. The functions chosen are ones an idle machine does
// not run, so that the machine survives being measured in this state.
var textTampers = []Tamper{
	{
		Name: "kernel-text", Check: "linux.text",
		Doc:   "flip one bit in the kernel's code, inside the acct system call",
		apply: flipByte("__x64_sys_acct", 12),
	},
	{
		Name: "kernel-text-jump", Check: "linux.text",
		Doc:   "detour the acct system call to another function by a jump at its entry, where ftrace patches",
		apply: detour("__x64_sys_acct", "commit_creds"),
	},
	{
		Name: "kernel-text-call", Check: "linux.text",
		Doc:   "put a call of a function that is no tracer where ftrace puts its own",
		apply: detourBy(opcodeCall, "__x64_sys_acct", "commit_creds"),
	},
	{
		Name: "kernel-text-breakpoint", Check: "linux.text",
		Doc:   "put a breakpoint instruction, as of a kprobe that nobody registered, at a function's entry",
		apply: overwrite("__x64_sys_acct", 0, []byte{0xcc}),
	},
	{
		Name: "livepatch-elsewhere", Check: "linux.text",
		Doc:   "have a live patch lead behind the start of its function",
		apply: livepatchElsewhere,
	},
	{
		Name: "kvm-text", Check: "modules.text",
		Doc:   "flip one bit in kvm's code, inside the function that ends it",
		apply: flipByte("kvm_exit", 12),
	},
	{
		Name: "kvm-amd-text", Check: "modules.text",
		Doc:   "flip one bit in kvm_amd's code, inside the function that leaves AMD-V",
		apply: flipByte("svm_hardware_unsetup", 12),
	},
	{
		Name: "kvm-static-call", Check: "modules.text",
		Doc:   "make the trampoline of one of KVM's static calls jump to another function of kvm_amd",
		apply: detour("__SCT__kvm_x86_set_rflags", "svm_get_rflags"),
	},
	{
		Name: "module-text", Check: "modules.text",
		Doc:   "flip one bit in the code of the virtio console's module, inside a function that suspends it",
		apply: flipByte("virtcons_freeze", 12),
	},
}

// dataTampers change what must never change though it is not code.
var dataTampers = []Tamper{
	{
		Name: "kernel-rodata", Check: "linux.rodata",
		Doc:   "change a letter of the kernel's version text in read-only data",
		apply: flipByte("linux_proc_banner", 0),
	},
	{
		Name: "exception-table", Check: "linux.rodata",
		Doc:   "point the fixup of the first exception table entry elsewhere",
		apply: flipByte("__start___ex_table", 4),
	},
	{
		Name: "vdso", Check: "linux.vdso",
		Doc:   "change a byte of the code that the kernel maps into every process",
		apply: changeVDSO,
	},
}

// overwrite stores data at symbol+offset.
func overwrite(symbol string, offset uint64, data []byte) func(context.Context, *change) error {
	return func(ctx context.Context, c *change) error {
		at, err := c.symbols(ctx, symbol)
		if err != nil {
			return err
		}
		return c.write(ctx, at[0]+offset, data)
	}
}

// flipByte inverts a bit of the byte at symbol+offset.
func flipByte(symbol string, offset uint64) func(context.Context, *change) error {
	return func(ctx context.Context, c *change) error {
		at, err := c.symbols(ctx, symbol)
		if err != nil {
			return err
		}
		return c.flip(ctx, at[0]+offset)
	}
}

func (c *change) flip(ctx context.Context, address uint64) error {
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

// Opcodes of near branches with a 32-bit displacement (Intel SDM, volume 2).
const (
	opcodeCall = 0xe8
	opcodeJump = 0xe9
)

// detour overwrites the first instruction of a function with a jump. On
// kernels with indirect branch tracking, 6.2 and later, the entry is an ENDBR
// or its sealed form and the jump goes behind it, where ftrace patches.
func detour(from, to string) func(context.Context, *change) error {
	return detourBy(opcodeJump, from, to)
}

func detourBy(opcode byte, from, to string) func(context.Context, *change) error {
	return func(ctx context.Context, c *change) error {
		at, err := c.symbols(ctx, from, to)
		if err != nil {
			return err
		}
		mem, err := c.memory(ctx)
		if err != nil {
			return err
		}
		site := at[0]
		var head [4]byte
		if err := mem.read(site, head[:]); err != nil {
			return err
		}
		switch binary.LittleEndian.Uint32(head[:]) {
		case 0xfa1e0ff3, 0x001f0f66, 0xd6401f0f: // ENDBR64; the sealed forms of 6.2 and 6.16
			site += 4
		}
		branch := binary.LittleEndian.AppendUint32([]byte{opcode}, uint32(at[1]-(site+5)))
		return c.write(ctx, site, branch)
	}
}

// changeVDSO changes a letter of the note at the end of the vDSO's headers,
// which no process runs.
func changeVDSO(ctx context.Context, c *change) error {
	at, err := c.symbols(ctx, "vdso_image_64|vdso64_image")
	if err != nil {
		return err
	}
	mem, err := c.memory(ctx)
	if err != nil {
		return err
	}
	data, err := mem.readWord(at[0]) // struct vdso_image begins with void *data
	if err != nil {
		return err
	}
	const identPadding = 0x0f // ELF e_ident[EI_PAD..]: ignored by all loaders
	return c.flip(ctx, data+identPadding)
}
