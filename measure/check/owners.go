package check

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

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
		c.ownText, c.moduleText, c.realMode, c.bpfPacks, c.bpfImages, c.probeSlots, c.tracerCode,
	} {
		found, err := account()
		out = append(out, found...)
		if err != nil {
			errs = append(errs, err)
		}
	}
	return out, errs
}

const maxOwned = 1 << 20 // bytes of one account, except where noted

func (c *collector) ownText() ([]owner, error) {
	from, ok1 := c.profile.Symbol("_text")
	to, ok2 := c.profile.Symbol("_etext")
	if !ok1 || !ok2 || to < from {
		return nil, fmt.Errorf("%w: no _text or _etext", kernel.ErrNoSymbols)
	}
	return []owner{{"kernel", address(from), uint64(to - from)}}, nil
}

func (c *collector) moduleText() ([]owner, error) {
	var out []owner
	for _, m := range c.modules {
		for _, a := range m.Areas {
			if a.Kind == kernel.AreaText || a.Kind == kernel.AreaInit && !m.Live {
				out = append(out, owner{"module " + m.Name, address(a.Start), a.Size})
			}
		}
	}
	return out, c.modulesErr
}

// realMode is the code that other CPUs start in, low in the direct map
// (arch/x86/realmode/init.c, real_mode_header).
func (c *collector) realMode() ([]owner, error) {
	at, ok := c.profile.Symbol("real_mode_header")
	start, ok1 := c.profile.Symbol("real_mode_blob")
	end, ok2 := c.profile.Symbol("real_mode_blob_end")
	if !ok || !ok1 || !ok2 || end < start || end-start > maxOwned {
		return nil, nil
	}
	base, err := c.space.U64(at)
	if err != nil {
		return nil, fmt.Errorf("real mode code: %w", err)
	}
	return []owner{{"real mode code", address(base), uint64(end - start)}}, nil
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

// bpfImages are programs, trampolines and dispatchers (bpf_kallsyms, a list of
// struct bpf_ksym).
func (c *collector) bpfImages() ([]owner, error) {
	head, ok := c.profile.Symbol("bpf_kallsyms")
	if !ok {
		return nil, nil
	}
	var offsets [3]uint64
	for i, name := range []string{"lnode", "start", "end"} {
		var err error
		if offsets[i], err = c.profile.Types.Offset("bpf_ksym", name); err != nil {
			return nil, fmt.Errorf("bpf images: %w", err)
		}
	}
	entries, err := kernel.List(c.space, head, 1<<16)
	var out []owner
	for _, at := range entries {
		at -= mem.Virt(offsets[0])
		start, err1 := c.space.U64(at + mem.Virt(offsets[1]))
		end, err2 := c.space.U64(at + mem.Virt(offsets[2]))
		if err := errors.Join(err1, err2); err != nil {
			return out, fmt.Errorf("bpf images: %w", err)
		}
		if end > start && end-start <= maxOwned {
			// Symbols are exact; the memory beneath is whole pages.
			first := start &^ (mem.PageSize - 1)
			last := (end + mem.PageSize - 1) &^ (mem.PageSize - 1)
			out = append(out, owner{"bpf image", address(first), last - first})
		}
	}
	return out, err
}

// probeSlots are the pages that hold copies of probed instructions
// (kernel/kprobes.c, struct kprobe_insn_cache and kprobe_insn_page).
func (c *collector) probeSlots() ([]owner, error) {
	var out []owner
	for _, name := range []string{"kprobe_insn_slots", "kprobe_optinsn_slots"} {
		cache, ok := c.profile.Symbol(name)
		if !ok {
			continue
		}
		pages, err1 := c.profile.Types.Offset("kprobe_insn_cache", "pages")
		link, err2 := c.profile.Types.Offset("kprobe_insn_page", "list")
		insns, err3 := c.profile.Types.Offset("kprobe_insn_page", "insns")
		if err := errors.Join(err1, err2, err3); err != nil {
			return out, fmt.Errorf("probe slots: %w", err)
		}
		entries, err := kernel.List(c.space, cache+mem.Virt(pages), 1<<16)
		if err != nil {
			return out, fmt.Errorf("probe slots: %w", err)
		}
		for _, at := range entries {
			page, err := c.space.U64(at - mem.Virt(link) + mem.Virt(insns))
			if err != nil {
				return out, fmt.Errorf("probe slots: %w", err)
			}
			out = append(out, owner{"kprobe slots", address(page), mem.PageSize})
		}
	}
	return out, nil
}

// tracerCode are the trampolines of ftrace's users, also of those that trace
// nothing at the moment: static users keep theirs (kernel/trace/ftrace.c,
// ftrace_ops_trampoline_list, since 5.8).
func (c *collector) tracerCode() ([]owner, error) {
	head, ok := c.profile.Symbol("ftrace_ops_trampoline_list")
	if !ok {
		return nil, nil
	}
	link, err1 := c.profile.Types.Offset("ftrace_ops", "list")
	code, err2 := c.profile.Types.Offset("ftrace_ops", "trampoline")
	length, err3 := c.profile.Types.Offset("ftrace_ops", "trampoline_size")
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, fmt.Errorf("ftrace trampolines: %w", err)
	}
	entries, err := kernel.List(c.space, head, 1<<16)
	var out []owner
	for _, at := range entries {
		at -= mem.Virt(link)
		start, err1 := c.space.U64(at + mem.Virt(code))
		size, err2 := c.space.U64(at + mem.Virt(length))
		if err := errors.Join(err1, err2); err != nil {
			return out, fmt.Errorf("ftrace trampolines: %w", err)
		}
		if start != 0 && size <= maxOwned {
			out = append(out, owner{"ftrace trampoline", address(start), (size + mem.PageSize - 1) &^ (mem.PageSize - 1)})
		}
	}
	return out, err
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
