package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// hooksOfFile is a kernel with two hooks of capability and, since 6.12, two slots for
// each, in data that is read-only after boot or not.
func hooksOfFile(t *testing.T, calls, writable bool) (img *Image, array, table uint64) {
	k := newTestKernel()
	array = k.next
	table = array + 0x400
	data := make([]byte, 0x800)
	put := func(at uint64, words ...uint64) {
		for i, w := range words {
			if binary.LittleEndian.PutUint64(data[at-array+8*uint64(i):], w); w>>63 != 0 {
				k.abs64 = append(k.abs64, at+8*uint64(i))
			}
		}
	}
	name := "security_hook_heads"
	if calls {
		name = "static_calls_table"
		put(array, table, fn(0), 0, table+64, fn(1), 0)
		for i := range uint64(4) {
			put(table+32*i, testVars+8*i, fn(10), 0, testVars+0x100+8*i)
		}
	} else {
		put(array, 0, 0, table, fn(0), 0, 0, 0, table+8, fn(1), 0)
	}
	put(array+0x700, fn(2)) // of another variable
	k.section(".data", data)
	jumps := k.next
	entry := func(i, site, key uint64) []byte {
		at := jumps + 16*i
		return binary.LittleEndian.AppendUint64(relative(at, site, fn(3)), key-(at+8))
	}
	k.merged("__start___jump_table", "__stop___jump_table", bytes.Join([][]byte{
		entry(0, fn(4), testVars+0x100), entry(1, fn(5), testVars+0x108|1), entry(2, fn(6), testVars+0x200), entry(3, testVars, testVars+0x100)}, nil))
	from, to := array, array+0x800
	if writable {
		from, to = array+0x700, array+0x700
	}
	k.symbols = append(k.symbols, Symbol{testBase, 'T', "_stext"}, Symbol{from, 'D', "__start_ro_after_init"}, Symbol{to, 'D', "__end_ro_after_init"},
		Symbol{array, 'd', "capability_hooks"}, Symbol{array + 0x200, 'd', "behind"}, Symbol{table, 'd', name}, Symbol{table + 128, 'd', "behind_table"})
	slices.SortStableFunc(k.symbols, func(a, b Symbol) int { return int(int64(a.Addr - b.Addr)) })
	return k.image(t), array, table
}

// What leads from a hook to its call is what the file has, wherever the kernel runs.
func TestHooksOfFile(t *testing.T) {
	const slide = 0x3000000
	img, array, table := hooksOfFile(t, false, false)
	got, err := img.SecurityHooks(SecurityLayout{Size: 40, Into: 16}, slide)
	fixed := func(at, target uint64) PointerSlot {
		return PointerSlot{At: mem.Virt(at + slide), Target: mem.Virt(target + slide), Fixed: true}
	}
	if err != nil || len(got.Arrays) != 1 || got.Arrays[0].Count != 2 || got.Jumps != nil || !slices.Equal(got.Slots, []PointerSlot{
		fixed(array+16, table), fixed(array+24, fn(0)), fixed(array+56, table+8), fixed(array+64, fn(1))}) {
		t.Errorf("lists: %+v, %v", got, err)
	}
	img, array, table = hooksOfFile(t, true, false)
	got, err = img.SecurityHooks(SecurityLayout{Size: 24}, slide)
	want := []PointerSlot{fixed(array, table), fixed(array+8, fn(0)), fixed(array+24, table+64), fixed(array+32, fn(1))}
	for i := range uint64(4) {
		want = append(want, fixed(table+32*i, testVars+8*i), fixed(table+32*i+8, fn(10)), fixed(table+32*i+24, testVars+0x100+8*i))
	}
	if err != nil || len(got.Arrays) != 1 || got.Arrays[0].Count != 2 || !slices.Equal(got.Slots, want) {
		t.Fatalf("calls: %+v, %v", got, err)
	}
	one, two := mem.Virt(testVars+0x100+slide), mem.Virt(testVars+0x108+slide)
	if len(got.Jumps) != 2 || !slices.Equal(got.Jumps[one], []JumpSite{{At: mem.Virt(fn(4) + slide)}}) ||
		!slices.Equal(got.Jumps[two], []JumpSite{{At: mem.Virt(fn(5) + slide), Likely: true}}) {
		t.Errorf("branches: %+v", got.Jumps)
	}
}

// A kernel whose hooks are not found is not one that has none.
func TestHooksOfFileUnknown(t *testing.T) {
	img, _, _ := hooksOfFile(t, false, true)
	if got, err := img.SecurityHooks(SecurityLayout{Size: 40, Into: 16}, 0); !errors.Is(err, ErrNoHooks) {
		t.Errorf("writable hooks: %+v, %v", got, err)
	}
	img, _, _ = hooksOfFile(t, false, false)
	for _, layout := range []SecurityLayout{{}, {Size: 16}, {Size: 1 << 20}, {Size: 40, Into: 33}, {Size: 40, Into: 1 << 63}} {
		if got, err := img.SecurityHooks(layout, 0); !errors.Is(err, ErrNoTypes) {
			t.Errorf("%+v: %+v, %v", layout, got, err)
		}
	}
	if got, err := newTestKernel().image(t).SecurityHooks(SecurityLayout{Size: 40}, 0); got != nil || err != nil {
		t.Errorf("no security modules: %+v, %v", got, err)
	}
}
