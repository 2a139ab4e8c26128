package check

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Executable memory leaves its account some time before it is freed: what a module
// ran at its start, a module that is unloaded, a page of kprobe slots, a trampoline.
// In between only the one who frees it knows of it, and on a machine that is short
// of processors it may stand there for long, or not have begun. So the kernel is
// asked for those:
//
//   - init_free_list has what do_free_init is to free (kernel/module/main.c), the
//     per-CPU lists vfree_deferred what was freed where it could not be (mm/vmalloc.c);
//   - a task that is in the middle of freeing has the address on its stack, or that of
//     the structure that has it.
//
// The areas that vmalloc frees lazily are of no use here: they are unmapped before
// they get on those lists.
//
// All of it is the target's to say. Memory of this kind is never approved: it is
// waited for, and not measured if it stays.

// freers are functions that free executable memory, or wait before they do; and one
// that makes it: a trampoline of ftrace is executable, and on no list yet, while
// create_trampoline waits for text_mutex, which a kernel that optimizes kprobes
// holds for seconds (arch/x86/kernel/ftrace.c, with the shared executable memory
// of 7.2).
var freers = []string{
	"create_trampoline", "arch_ftrace_update_trampoline",
	"do_free_init", "free_module", "load_module", "module_memfree", "free_mod_mem", "module_memory_free",
	"vfree", "__vunmap", "__vfree", "vfree_atomic", "vm_reset_perms", "execmem_free",
	"collect_one_slot", "collect_garbage_slots", "__free_insn_slot", "free_insn_page",
	"ftrace_trampoline_free", "arch_ftrace_trampoline_free", "ftrace_shutdown",
	"__bpf_tramp_image_put_deferred", "bpf_tramp_image_free", "bpf_jit_free_exec", "bpf_jit_binary_free",
	"bpf_jit_free", "bpf_prog_free_deferred",
}

// holders are the structures that have the address of what is to be freed.
var holders = [][2]string{
	{"mod_initfree", "module_init"}, // up to 6.3
	{"mod_initfree", "init_text"},
	{"kprobe_insn_page", "insns"},
	{"bpf_tramp_image", "image"},
	{"ftrace_ops", "trampoline"},
}

// Bounds of what is read for it.
const (
	maxFreed  = 4096     // entries of a list
	stackSize = 16 << 10 // THREAD_SIZE of x86-64 without KASAN
	maxStacks = 64 << 20 // bytes of all tasks
)

// freeing lists those of some ranges of executable memory that the kernel is about
// to free, by who does it.
func (c *collector) freeing(ranges []mappedRange) ([]owner, error) {
	if len(ranges) == 0 {
		return nil, nil
	}
	f := freed{collector: c, ranges: ranges}
	err1 := f.startLists()
	err2 := f.deferred()
	err3 := f.stacks()
	return f.out, errors.Join(err1, err2, err3)
}

// freed looks for who frees ranges.
type freed struct {
	*collector
	ranges []mappedRange
	out    []owner
}

// add notes that the range that begins at an address is being freed. An address in
// the middle says nothing: code of a range that itself calls what frees leaves such
// on the stack.
func (f *freed) add(at address, by string) {
	for _, r := range f.ranges {
		if r.Start == at && !slices.ContainsFunc(f.out, func(have owner) bool { return have.Start == at }) {
			f.out = append(f.out, owner{by, r.Start, r.Size})
		}
	}
}

// startLists reads what was run at the start of modules and is to be freed.
func (f *freed) startLists() error {
	head, ok := f.profile.Symbol("init_free_list")
	if !ok {
		return nil
	}
	return f.nodes(head, func(at mem.Virt) { f.held(at, "init_free_list") })
}

// nodes visits a struct llist_head's nodes.
func (f *freed) nodes(head mem.Virt, visit func(at mem.Virt)) error {
	for n := 0; ; n++ {
		next, err := f.space.U64(head)
		if err != nil {
			return err
		}
		if next == 0 {
			return nil
		}
		if n == maxFreed {
			return kernel.ErrListTooLong
		}
		head = mem.Virt(next)
		visit(head)
	}
}

// deferred reads what is to be freed where it can be: the node is in the memory.
func (f *freed) deferred() error {
	symbol, ok := f.profile.Symbol("vfree_deferred")
	list, err := f.profile.Types.Offset("vfree_deferred", "list")
	if !ok || err != nil {
		return nil
	}
	bases, err := f.profile.PerCPU()
	if err != nil {
		return err
	}
	for _, base := range bases {
		if err := f.nodes(base+symbol+mem.Virt(list), func(at mem.Virt) { f.add(address(at), "vfree_deferred") }); err != nil {
			return err
		}
	}
	return nil
}

// held adds the ranges that a structure at an address has, whichever it is.
func (f *freed) held(at mem.Virt, by string) {
	for _, h := range holders {
		if off, err := f.profile.Types.Offset(h[0], h[1]); err == nil {
			if value, err := f.space.U64(at + mem.Virt(off)); err == nil {
				f.add(address(value), by)
			}
		}
	}
}

// stacks looks for tasks that are freeing.
func (f *freed) stacks() error {
	var offsets [3]uint64
	for i, path := range [][]string{{"stack"}, {"thread", "sp"}, {"on_cpu"}} {
		var err error
		if offsets[i], err = f.profile.Types.Offset("task_struct", path...); err != nil {
			return err
		}
	}
	var tasks []kernel.Task
	var err error
	for range moduleAttempts {
		if tasks, err = f.profile.Tasks(); err == nil {
			break
		}
	}
	buffer, room := make([]byte, stackSize), maxStacks
	for _, t := range tasks {
		base, err1 := f.space.U64(t.At + mem.Virt(offsets[0]))
		sp, err2 := f.space.U64(t.At + mem.Virt(offsets[1]))
		running, err3 := f.space.U32(t.At + mem.Virt(offsets[2]))
		if errors.Join(err1, err2, err3) != nil {
			continue // it has ended
		}
		if running != 0 || sp < base || sp-base > stackSize {
			sp = base // what is on top of the stack now is not known: all that is there
		}
		stack := buffer[:stackSize-(sp-base)]
		if room -= len(stack); room < 0 {
			return errors.New("too many tasks to look for one that frees memory")
		}
		if f.space.Read(stack, mem.Virt(sp)) == nil {
			f.stack(stack, fmt.Sprintf("%s[%d]", t.Comm, t.PID))
		}
	}
	return err
}

// stack looks at one.
func (f *freed) stack(stack []byte, task string) {
	by := ""
	for i := 0; i < len(stack)/8; i++ {
		if name := f.freer(entryAt(stack, i)); name != "" {
			by = name
			break
		}
	}
	if by == "" {
		return
	}
	by += " of " + task
	for i := 0; i < len(stack)/8; i++ {
		word := entryAt(stack, i)
		if word>>47 == 0 {
			continue
		}
		f.add(address(word), by)
		f.held(mem.Virt(word), by)
		if m, err := f.profile.ModuleAt(mem.Virt(word)); err == nil && !m.Live {
			for _, a := range m.Areas {
				f.add(address(a.Start), by)
			}
		}
	}
}

// freer names the function of freers that an address on a stack returns to.
func (f *freed) freer(at uint64) string {
	if mem.Virt(at) < f.profile.Base || mem.Virt(at) >= f.profile.End {
		return ""
	}
	name, offset, ok := f.profile.Lookup(mem.Virt(at))
	name, _, _ = strings.Cut(name, ".") // parts that the compiler made
	if !ok || offset == 0 || !slices.Contains(freers, name) {
		return ""
	}
	return name
}

// freedOf says what memory of this kind there is.
func freedOf(freeing []owner) string {
	var out []string
	for _, o := range freeing {
		out = append(out, fmt.Sprintf("%d bytes at %v (%s)", o.Size, o.Start, o.Kind))
	}
	return strings.Join(out, ", ")
}
