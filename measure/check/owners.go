package check

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// owners lists who may have executable memory, by the kernel's own accounts.
// What cannot be read is returned as errors; kernels that lack a facility lack
// its symbols, which is none.
func (c *collector) owners() ([]owner, []error) {
	var out []owner
	var errs []error
	for _, account := range []func() ([]owner, error){
		c.ownText, c.moduleText, c.bpfPacks, c.dynamicOwners,
	} {
		found, err := account()
		out = append(out, found...)
		if err != nil {
			errs = append(errs, err)
		}
	}
	return out, errs
}

// codePatience is how long one scan waits, in all, for code without an account to
// get one or to go. Code has none just before it gets one, and the memory of a
// module, and of what ran at its start, is there for a grace period of RCU after
// its account has gone: milliseconds, on a starved machine longer ([grace]).
const codePatience = 8 * time.Second

const maxOwned = 1 << 20 // bytes of one account, except where noted

func (c *collector) ownText() ([]owner, error) {
	from, ok1 := c.profile.Symbol("_text")
	to, ok2 := c.profile.Symbol("_etext")
	if !ok1 || !ok2 || to < from {
		return nil, fmt.Errorf("%w: no _text or _etext", kernel.ErrNoSymbols)
	}
	return []owner{{"kernel", address(from), uint64(to - from)}}, nil
}

// moduleText is of the modules on the list, now and when the scan began: they
// come and go. What a module runs at its start stays a while after it is live:
// do_init_module (kernel/module/main.c) takes the locks of ftrace and of modules
// before it takes that from the module's account, and others hold them for long.
func (c *collector) moduleText() ([]owner, error) {
	_, err := c.goneModules()
	return executableAreas(slices.Concat(c.modules, c.later)), errors.Join(c.modulesErr, err)
}

func executableAreas(modules []kernel.LoadedModule) []owner {
	var out []owner
	for _, m := range modules {
		for _, a := range m.Areas {
			if a.Kind == kernel.AreaText || a.Kind == kernel.AreaInit {
				out = append(out, owner{"module " + m.Name, address(a.Start), a.Size})
			}
		}
	}
	return out
}

// starting names the modules on the list, as last read, that have some of the
// executable memory for their start, and those that were dormant when the list was
// read first and have some now: no check compares it.
func (c *collector) starting(executable []mappedRange) []string {
	var out []string
	runs := func(a kernel.Area) bool {
		return slices.ContainsFunc(executable, func(r mappedRange) bool {
			return r.Start < address(a.End()) && address(a.Start) < r.Start+address(r.Size)
		})
	}
	for _, m := range c.later {
		if a, ok := m.Area(kernel.AreaInit); ok && runs(a) {
			out = append(out, m.Name)
		}
	}
	for _, m := range c.modules {
		if c.dormant[m.At] && !slices.Contains(out, m.Name) && slices.ContainsFunc(m.Areas, runs) {
			out = append(out, m.Name)
		}
	}
	return out
}

// bpfPacks are the blocks that BPF programs share since 5.18 (kernel/bpf/core.c,
// pack_list). Each is PMD_SIZE for every possible NUMA node, or one page where
// that could not be had; no node count is read, so one PMD is accepted and what
// exceeds it is shown as belonging to nothing.
func (c *collector) bpfPacks() ([]owner, error) {
	head, ok := c.profile.Symbol("pack_list")
	if !ok {
		return nil, nil
	}
	link, err1 := c.profile.Types.Offset("bpf_prog_pack", "list")
	ptr, err2 := c.profile.Types.Offset("bpf_prog_pack", "ptr")
	if err1 != nil || err2 != nil {
		return nil, fmt.Errorf("bpf packs: %w", errors.Join(err1, err2))
	}
	entries, err := kernel.List(c.space, head, 4096)
	var out []owner
	for _, at := range entries {
		base, err := c.space.U64(at - mem.Virt(link) + mem.Virt(ptr))
		if err != nil {
			return out, fmt.Errorf("bpf packs: %w", err)
		}
		out = append(out, owner{"bpf programs", address(base), 2 << 20})
	}
	return out, err
}

// dynamicOwners are those whose code linux.dynamic compares, in whole pages.
func (c *collector) dynamicOwners() ([]owner, error) {
	d, err := c.dynamicAccounts()
	if err != nil {
		return nil, err
	}
	var out []owner
	add := func(kind string, start address, size uint64) {
		first := start &^ (mem.PageSize - 1)
		last := (start + address(min(size, maxOwned)) + mem.PageSize - 1) &^ (mem.PageSize - 1)
		out = append(out, owner{kind, first, uint64(last - first)})
	}
	for _, s := range d.Slots {
		add("kprobe slots", s.At, mem.PageSize)
	}
	for _, t := range d.Tracers {
		add("ftrace trampoline", t.At, t.Size)
	}
	for _, i := range d.Images {
		kind := "bpf image"
		if i.Trampoline {
			kind = bpfTrampoline
		}
		add(kind, i.Start, uint64(i.End-i.Start))
	}
	start, ok1 := c.profile.Symbol("real_mode_blob")
	end, ok2 := c.profile.Symbol("real_mode_blob_end")
	if d.RealMode != nil && ok1 && ok2 && end > start && end-start <= maxOwned {
		add("real mode code", d.RealMode.At, uint64(end-start))
	}
	for _, k := range d.Kexec {
		add("code of kexec", k.At, mem.PageSize)
	}
	if len(d.Unread) > 0 {
		err = errors.New(strings.Join(d.Unread, "; "))
	}
	return out, err
}

// bpfTrampoline is the kind of owner of code of BPF that is no program.
const bpfTrampoline = "bpf trampoline"

// unnamed are ranges that have the form of BPF programs that came as classic BPF
// and have their own memory, as all have up to 5.17 and large ones since: no
// list has those. linux.dynamic judges their code.
func (c *collector) unnamed(ranges []mappedRange) []owner {
	size, err := c.profile.Types.Size("bpf_binary_header")
	if err != nil {
		return nil
	}
	unit := uint64(1)
	if c.profile.Types.Has("bpf_binary_header", "pages") {
		unit = mem.PageSize
	}
	var out []owner
	for _, r := range ranges {
		if n, err := c.space.U32(mem.Virt(r.Start)); err == nil && uint64(n)*unit == r.Size && r.Size > size && r.Size <= maxOwned {
			out = append(out, owner{"bpf program without a name", r.Start, r.Size})
		}
	}
	return out
}

// unnamedPrograms are all of these in the module area.
func (c *collector) unnamedPrograms() []owner {
	owners, _ := c.owners() // what cannot be read has an owner less, and is no program by its form
	return c.unnamed(unownedRanges(c.executable(kernel.ModuleArea()), owners))
}

// maxTrapped bounds how much unowned memory is read, in pages.
const maxTrapped = 16 << 20 / mem.PageSize

// trapped lists the pages of executable ranges that hold nothing but INT3: the
// kernel fills executable memory with it that nobody has yet (execmem, since
// 6.13), and code cannot run there.
func (c *collector) trapped(ranges []mappedRange) []owner {
	var out []owner
	var page [mem.PageSize]byte
	traps := bytes.Repeat([]byte{0xcc}, len(page))
	budget := maxTrapped
	for _, r := range ranges {
		for at := r.Start; at < r.Start+address(r.Size) && budget > 0; at += mem.PageSize {
			budget--
			if c.space.Read(page[:], mem.Virt(at)) != nil || !bytes.Equal(page[:], traps) {
				continue
			}
			if n := len(out); n > 0 && out[n-1].Start+address(out[n-1].Size) == at {
				out[n-1].Size += mem.PageSize
				continue
			}
			out = append(out, owner{"nothing but INT3", at, mem.PageSize})
		}
	}
	return out
}

// entryAt returns an entry of a page table.
func entryAt(table []byte, index int) uint64 {
	return binary.LittleEndian.Uint64(table[index*8:])
}
