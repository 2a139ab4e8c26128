package kernel

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/plumbline-sec/plumbline/internal/bin"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// ImageHooks is what a kernel's file has of security hooks. Addresses are those of the
// running kernel.
type ImageHooks struct {
	Arrays []SecurityHooks // name, place and number of hooks only
	// Slots are the pointers that lead from a hook to its call. The file has them, and
	// the kernel changes none: what a hook calls and the list or the calls that it
	// belongs to and, since 6.12, the keys and the trampoline of each call.
	Slots []PointerSlot
	Jumps map[mem.Virt][]JumpSite // since 6.12: of each static key that leads to a call
}

// JumpSite is a branch in text that stays, which goes by a static key.
type JumpSite struct {
	At     mem.Virt
	Likely bool // the branch is to jump while the key is off
}

// ErrNoHooks is for a kernel of which it is not known where it has its hooks, such as
// one with CONFIG_SECURITY_WRITABLE_HOOKS (up to 6.3).
var ErrNoHooks = errors.New("the file has no capability_hooks in memory that is read-only after boot")

// SecurityHooks lists the hooks of a kernel that runs slide higher than it was linked:
// layout says where a hook has the pointer into the table. It is nil for a kernel
// without security modules.
func (img *Image) SecurityHooks(layout SecurityLayout, slide uint64) (*ImageHooks, error) {
	table, ok := img.Symbols.Address("security_hook_heads")
	calls := false
	if !ok {
		if table, calls = img.Symbols.Address("static_calls_table"); !calls {
			return nil, nil
		}
	}
	if layout.Size < minHook || layout.Size > maxHook || layout.Into > layout.Size-8 {
		return nil, fmt.Errorf("%w: hooks of %d bytes", ErrNoTypes, layout.Size)
	}
	from, to := mem.Virt(table+slide), mem.Virt(img.Symbols.Next(table)+slide)
	out := &ImageHooks{}
	capability := false
	for _, array := range HookArrays(img.Symbols, slide) {
		a := SecurityHooks{Name: array.Name, At: array.At}
		end := array.At
		for ; end+mem.Virt(layout.Size) <= array.End; end += mem.Virt(layout.Size) {
			into, ok := img.Pointer(uint64(end)+layout.Into, slide)
			if !ok || mem.Virt(into) < from || mem.Virt(into) >= to {
				break
			}
			a.Count++
		}
		capability = capability || a.Name == "capability_hooks" && a.Count > 0
		out.Arrays = append(out.Arrays, a)
		out.Slots = append(out.Slots, img.pointers(array.At, end, slide)...)
	}
	if !capability {
		return nil, ErrNoHooks
	}
	if calls {
		out.Slots = append(out.Slots, img.pointers(from, to, slide)...)
		jumps := img.between("__start___jump_table", "__stop___jump_table")
		if out.Jumps = img.jumpsOf(out.Slots, jumps, slide); len(out.Jumps) == 0 {
			return nil, fmt.Errorf("%w: the file has no jump labels of security hooks", ErrNoSymbols)
		}
	}
	slices.SortFunc(out.Slots, func(a, b PointerSlot) int { return cmp.Compare(a.At, b.At) })
	return out, nil
}

// pointers lists the pointers that the file has in [from, to), which nothing changes.
func (img *Image) pointers(from, to mem.Virt, slide uint64) (out []PointerSlot) {
	low := uint32(uint64(from) - slide)
	first, _ := slices.BinarySearch(img.relocs.abs64, low)
	for _, at := range img.relocs.abs64[first:] {
		at := from + mem.Virt(at-low)
		if at+8 > to {
			break
		}
		if b := img.At(uint64(at)-slide, 8); len(b) == 8 {
			out = append(out, PointerSlot{At: at, Target: mem.Virt(binary.LittleEndian.Uint64(b) + slide), Fixed: true})
		}
	}
	return out
}

// jumpsOf lists the branches in text that stays of the keys that pointers lead to.
func (img *Image) jumpsOf(slots []PointerSlot, table span, slide uint64) map[mem.Virt][]JumpSite {
	first, ok1 := img.Symbols.Address("_stext")
	last, ok2 := img.Symbols.Address("_etext")
	if !ok1 || !ok2 {
		return nil
	}
	keys := make(map[mem.Virt]bool, len(slots))
	for _, s := range slots {
		keys[s.Target] = true
	}
	out := make(map[mem.Virt][]JumpSite)
	for c := bin.Little(table.data); c.Len() >= jumpEntry; {
		key, jump := readJump(c, mem.Virt(table.addr+slide))
		if keys[key] && jump.At >= mem.Virt(first+slide) && jump.At < mem.Virt(last+slide) {
			out[key] = append(out[key], jump)
		}
	}
	return out
}
