package lab

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// LivepatchName is the module that the tamper "livepatch" loads.
const LivepatchName = "lab_livepatch"

// LivepatchFile is the module of the tamper "livepatch", once that was applied.
func (m *Machine) LivepatchFile() string { return filepath.Join(m.Dir, LivepatchName+".ko") }

// livepatch loads a module that replaces what prints /proc/cmdline, as
// samples/livepatch in the kernel's source does. The module is made here, of
// machine code, for the kernel that runs: no compiler and no headers are needed.
// It is not signed.
func livepatch(ctx context.Context, c *change) error {
	module, err := c.livepatchModule(ctx)
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.machine.LivepatchFile(), module, 0o600); err != nil {
		return err
	}
	const inGuest = "/run/" + LivepatchName + ".ko"
	if err := c.machine.Put(ctx, c.machine.LivepatchFile(), inGuest); err != nil {
		return err
	}
	restore, err := c.takeUnsigned(ctx)
	if err != nil {
		return err
	}
	err = c.shell(ctx, `set -e
		insmod `+inGuest+`
		for try in $(seq 3000); do
			[ "$(cat /sys/kernel/livepatch/`+LivepatchName+`/transition)" = 0 ] && break
			sleep 0.1
		done
		grep -q `+LivepatchName+` /proc/cmdline`,
		`[ -e /sys/kernel/livepatch/`+LivepatchName+` ] || exit 0
		echo 0 > /sys/kernel/livepatch/`+LivepatchName+`/enabled
		for try in $(seq 3000); do
			[ -e /sys/kernel/livepatch/`+LivepatchName+` ] || break
			sleep 0.1
		done
		rmmod `+LivepatchName)
	return errors.Join(err, restore())
}

// takeUnsigned makes the kernel take modules without a signature: under Secure
// Boot it does not, by its lockdown (security/lockdown/lockdown.c, of which the
// first 32 bits are the level or the reasons) and by what IMA's policy for such
// machines sets (kernel/module/signing.c, sig_enforce).
func (c *change) takeUnsigned(ctx context.Context) (restore func() error, err error) {
	at, err := c.symbols(ctx, "kernel_locked_down", "sig_enforce")
	if err != nil {
		return nil, err
	}
	mem, err := c.memory(ctx)
	if err != nil {
		return nil, err
	}
	level, enforce := make([]byte, 4), make([]byte, 1)
	err = errors.Join(mem.read(at[0], level), mem.read(at[1], enforce))
	if err == nil {
		err = errors.Join(mem.write(at[0], make([]byte, 4)), mem.write(at[1], make([]byte, 1)))
	}
	return func() error { return errors.Join(mem.write(at[0], level), mem.write(at[1], enforce)) }, err
}

// livepatchElsewhere has a live patch lead behind the start of its function.
func livepatchElsewhere(ctx context.Context, c *change) error {
	if err := livepatch(ctx, c); err != nil {
		return err
	}
	c.table = nil // there is a module more
	at, err := c.symbols(ctx, "lab_functions", "lab_replacement")
	if err != nil {
		return err
	}
	target, err := c.offset(ctx, "klp_func", "new_func")
	if err != nil {
		return err
	}
	return c.write(ctx, at[0]+target, word(at[1]+uint64(len(endbr))))
}

var endbr = []byte{0xf3, 0x0f, 0x1e, 0xfa}

// livepatchModule makes the module: an ELF relocatable file as the kernel's
// loader takes it (kernel/module/main.c, elf_validity_check and
// load_module), with a relocation by a name that nobody exports
// (Documentation/livepatch/module-elf-format.rst).
func (c *change) livepatchModule(ctx context.Context) ([]byte, error) {
	offsets := make(map[string]uint64)
	for _, of := range []string{"module.name", "module.init", "module.exit", "klp_func.old_name", "klp_func.new_func",
		"klp_object.funcs", "klp_patch.mod", "klp_patch.objs"} {
		structure, member, _ := strings.Cut(of, ".")
		var err error
		if offsets[of], err = c.offset(ctx, structure, member); err != nil {
			return nil, err
		}
	}
	sizes := make(map[string]int)
	for _, structure := range []string{"module", "klp_func", "klp_object", "klp_patch"} {
		var err error
		if sizes[structure], err = c.size(structure); err != nil {
			return nil, err
		}
	}
	magic, err := c.machine.vermagic()
	if err != nil {
		return nil, err
	}
	build := sha256.Sum256([]byte(magic + time.Now().String()))

	var o objectFile
	text := o.section(".text", elf.SHF_ALLOC|elf.SHF_EXECINSTR, bytes.Join([][]byte{
		endbr,
		{0x48, 0x83, 0xec, 0x08},          // 4: sub $8, %rsp
		{0x48, 0x8b, 0x15, 0, 0, 0, 0},    // 8: mov saved_command_line(%rip), %rdx
		{0x48, 0x8d, 0x35, 0, 0, 0, 0},    // 15: lea format(%rip), %rsi
		{0x31, 0xc0, 0xe8, 0, 0, 0, 0},    // 22: xor %eax, %eax; call seq_printf
		{0x31, 0xc0, 0x48, 0x83, 0xc4, 8}, // 29: xor %eax, %eax; add $8, %rsp
		{0xc3},
	}, nil))
	init := o.section(".init.text", elf.SHF_ALLOC|elf.SHF_EXECINSTR, bytes.Join([][]byte{
		endbr,
		{0x48, 0xc7, 0xc7, 0, 0, 0, 0}, // 4: mov $lab_patch, %rdi
		{0xe9, 0, 0, 0, 0},             // 11: jmp klp_enable_patch
	}, nil))
	exit := o.section(".exit.text", elf.SHF_ALLOC|elf.SHF_EXECINSTR, append(bytes.Clone(endbr), 0xc3))
	const format = "%s " + LivepatchName + "\n\x00"
	rodata := o.section(".rodata", elf.SHF_ALLOC, []byte(format+"cmdline_proc_show\x00"))
	o.section(".modinfo", elf.SHF_ALLOC, []byte(strings.Join([]string{"license=GPL", "livepatch=Y", "depends=", "retpoline=Y",
		"name=" + LivepatchName, "vermagic=" + magic, ""}, "\x00")))
	note := binary.LittleEndian.AppendUint32(nil, 4)
	note = binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(note, 20), 3) // NT_GNU_BUILD_ID
	o.section(".note.gnu.build-id", elf.SHF_ALLOC, append(append(note, "GNU\x00"...), build[:20]...))
	// Each array ends with an empty element.
	data := o.section(".data", elf.SHF_ALLOC|elf.SHF_WRITE, make([]byte, 2*sizes["klp_func"]+2*sizes["klp_object"]+sizes["klp_patch"]))
	objects, patch := uint64(2*sizes["klp_func"]), uint64(2*sizes["klp_func"]+2*sizes["klp_object"])
	self := make([]byte, sizes["module"])
	copy(self[offsets["module.name"]:], LivepatchName)
	this := o.section(".gnu.linkonce.this_module", elf.SHF_ALLOC|elf.SHF_WRITE, self)

	replacement := o.symbol("lab_replacement", elf.STB_LOCAL, elf.STT_FUNC, text, 0)
	words := o.symbol("lab_format", elf.STB_LOCAL, elf.STT_OBJECT, rodata, 0)
	oldName := o.symbol("lab_old_name", elf.STB_LOCAL, elf.STT_OBJECT, rodata, uint64(len(format)))
	functions := o.symbol("lab_functions", elf.STB_LOCAL, elf.STT_OBJECT, data, 0)
	patched := o.symbol("lab_objects", elf.STB_LOCAL, elf.STT_OBJECT, data, objects)
	whole := o.symbol("lab_patch", elf.STB_LOCAL, elf.STT_OBJECT, data, patch)
	start := o.symbol("init_module", elf.STB_GLOBAL, elf.STT_FUNC, init, 0)
	stop := o.symbol("cleanup_module", elf.STB_GLOBAL, elf.STT_FUNC, exit, 0)
	module := o.symbol("__this_module", elf.STB_GLOBAL, elf.STT_OBJECT, this, 0)
	enable := o.symbol("klp_enable_patch", elf.STB_GLOBAL, elf.STT_NOTYPE, 0, 0)
	printf := o.symbol("seq_printf", elf.STB_GLOBAL, elf.STT_NOTYPE, 0, 0)
	line := o.symbol(".klp.sym.vmlinux.saved_command_line,0", elf.STB_GLOBAL, elf.STT_OBJECT, 0xff20, 0) // SHN_LIVEPATCH

	o.relocate(text, 18, elf.R_X86_64_PC32, words, -4)
	o.relocate(text, 25, elf.R_X86_64_PLT32, printf, -4)
	o.relocate(init, 7, elf.R_X86_64_32S, whole, 0)
	o.relocate(init, 12, elf.R_X86_64_PLT32, enable, -4)
	o.relocate(this, offsets["module.init"], elf.R_X86_64_64, start, 0)
	o.relocate(this, offsets["module.exit"], elf.R_X86_64_64, stop, 0)
	o.relocate(data, offsets["klp_func.old_name"], elf.R_X86_64_64, oldName, 0)
	o.relocate(data, offsets["klp_func.new_func"], elf.R_X86_64_64, replacement, 0)
	o.relocate(data, objects+offsets["klp_object.funcs"], elf.R_X86_64_64, functions, 0)
	o.relocate(data, patch+offsets["klp_patch.mod"], elf.R_X86_64_64, module, 0)
	o.relocate(data, patch+offsets["klp_patch.objs"], elf.R_X86_64_64, patched, 0)
	o.livepatchRelocation(".klp.rela.vmlinux..text", text, 11, elf.R_X86_64_PC32, line, -4)
	return o.bytes(), nil
}

// vermagic returns what modules of the machine's kernel have to say of it.
func (m *Machine) vermagic() (string, error) {
	tree, err := openModuleTree(m.Modules)
	if err != nil {
		return "", err
	}
	module, err := tree.read("dummy")
	if err != nil {
		return "", err
	}
	_, rest, ok := bytes.Cut(module, []byte("\x00vermagic="))
	magic, _, ended := bytes.Cut(rest, []byte{0})
	if !ok || !ended {
		return "", fmt.Errorf("module dummy has no vermagic")
	}
	return string(magic), nil
}
