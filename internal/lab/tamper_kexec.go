package lab

import (
	"context"
	"errors"
	"fmt"
)

// kexecTampers change what starts another kernel, which can be executed from 6.14 on as
// soon as that kernel is loaded.
var kexecTampers = []Tamper{
	{
		Name: "kexec-page", Check: "linux.dynamic", Kernel: "sid",
		Doc:   "change an instruction of the code that will start the kernel that was loaded for a reboot",
		apply: changeKexec,
	},
	{
		Name: "kexec-page-behind", Check: "linux.dynamic", Kernel: "sid",
		Doc:   "put code behind that which will start the kernel that was loaded for a reboot",
		apply: extendKexec,
	},
	{
		Name: "kexec-page-elsewhere", Check: "linux.pagetables", Kernel: "sid",
		Doc:   "have the account of the kernel that was loaded for a reboot name the page behind the one that is executable",
		apply: moveKexec,
	},
}

// loadNextKernel has the kernel's own file be what a reboot would start
// (kexec_file_load, with KEXEC_FILE_NO_INITRAMFS; KEXEC_FILE_UNLOAD takes it back).
const (
	loadNextKernel = `perl -e '
		open(my $kernel, "<", "/run/lab-next-kernel") or die $!;
		my $line = "\0";
		syscall(320, fileno($kernel), -1, 1, $line, 4) == 0 or die "kexec_file_load: $!"'`
	unloadNextKernel = `perl -e 'syscall(320, -1, -1, 0, 0, 1) == 0 or die "kexec_file_load: $!"'
		rm -f /run/lab-next-kernel`
)

// kexecPage is the page that starts the kernel that the machine has loaded.
type kexecPage struct {
	at         uint64 // in the direct map
	account    uint64 // where struct kimage names it
	descriptor uint64 // struct page
	from, to   uint64 // the code that it is a copy of, where that is linked
}

// loadNext loads a kernel and finds its page.
func (c *change) loadNext(ctx context.Context) (p kexecPage, err error) {
	at, err := c.symbols(ctx, "kexec_image", "vmemmap_base", "page_offset_base", "__relocate_kernel_start", "__relocate_kernel_end")
	if err != nil {
		return p, err
	}
	if err := c.machine.Put(ctx, c.machine.Vmlinuz, "/run/lab-next-kernel"); err != nil {
		return p, err
	}
	if err := c.shell(ctx, loadNextKernel, unloadNextKernel); err != nil {
		return p, err
	}
	mem, err := c.memory(ctx)
	if err != nil {
		return p, err
	}
	image, err1 := mem.readWord(at[0])
	descriptors, err2 := mem.readWord(at[1])
	direct, err3 := mem.readWord(at[2])
	field, err4 := c.offset(ctx, "kimage", "control_code_page")
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return p, err
	}
	size, err := c.size("page")
	if err != nil {
		return p, err
	}
	p = kexecPage{account: image + field, from: at[3], to: at[4]}
	if p.descriptor, err = mem.readWord(p.account); err != nil {
		return p, err
	}
	p.at = direct + (p.descriptor-descriptors)/uint64(size)*4096
	leaf, err := c.leaf(ctx, p.at)
	if err == nil && leaf.value&entryNoExecute != 0 {
		err = fmt.Errorf("the page of kexec at %#x is not executable", p.at)
	}
	return p, err
}

func changeKexec(ctx context.Context, c *change) error {
	p, err := c.loadNext(ctx)
	if err != nil {
		return err
	}
	code, err := c.symbols(ctx, "relocate_kernel")
	if err != nil {
		return err
	}
	return c.flip(ctx, p.at+code[0]-p.from)
}

func extendKexec(ctx context.Context, c *change) error {
	p, err := c.loadNext(ctx)
	if err != nil {
		return err
	}
	if p.to-p.from > 4096-8 {
		return fmt.Errorf("kexec's code takes the page: %w", ErrNoSubject)
	}
	return c.write(ctx, p.at+4096-8, word(0xc3))
}

// moveKexec is put back before the kernel is unloaded, which frees what is named.
func moveKexec(ctx context.Context, c *change) error {
	p, err := c.loadNext(ctx)
	if err != nil {
		return err
	}
	size, err := c.size("page")
	if err != nil {
		return err
	}
	return c.write(ctx, p.account, word(p.descriptor+uint64(size)))
}
