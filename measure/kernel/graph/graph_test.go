package graph

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func reading(raw []byte) io.ReaderAt { return bytes.NewReader(raw) }

// link makes a list of entries after its head.
func (f *fixture) link(head uint64, entries ...uint64) {
	at := head
	for _, e := range append(entries, head) {
		f.put(at, e)
		f.put(e+8, at)
		at = e
	}
}

// found returns the pointers of a result as "path = value".
func found(r *Result) map[string]uint64 {
	out := make(map[string]uint64)
	for _, p := range append(r.Pointers, r.Programs...) {
		out[p.Path] = p.Value
	}
	return out
}

func TestWalkReachesThrough(t *testing.T) {
	tests := map[string]struct {
		build func(*fixture)
		want  map[string]uint64
	}{
		"a list in a list, and a table": {
			func(f *fixture) {
				f.link(f.global("super_blocks"), heap+superList)
				f.link(heap+superInodes, heap+0x100+inodeList, heap+0x200+inodeList)
				f.put(heap+superOps, heap+0x300)
				f.put(heap+0x300, text)
				f.put(heap+0x200+inodeFop, heap+0x310)
				f.put(heap+0x310+8, text+64)
			},
			map[string]uint64{"super_blocks[0].s_op->open": text, "super_blocks[0].s_inodes[1].i_fop->read": text + 64},
		},
		"a tree": {
			func(f *fixture) {
				root := f.global("proc_root")
				f.put(root+entryTree, heap+0x100+entryNode)
				f.put(heap+0x100+entryNode+16, heap+0x200+entryNode) // left
				f.put(heap+0x100+entryNode+8, heap+0x300+entryNode)  // right
				f.put(heap+0x200+entryNode, heap+0x100+entryNode|1)  // parent, and colour
				f.put(heap+0x300+entryNode, heap+0x100+entryNode)    // parent
				f.put(heap+0x200+entryWrite, text)
				f.put(heap+0x100+entryWrite, text+64)
				f.put(heap+0x300+entryWrite, text+128)
			},
			map[string]uint64{"proc_root.subdir[0].write": text, "proc_root.subdir[1].write": text + 64, "proc_root.subdir[2].write": text + 128},
		},
		"pointers to the next": {
			func(f *fixture) {
				f.put(f.global("reboot_notifier_list"), heap)
				f.put(heap+8, heap+0x100)
				f.put(heap, text)
				f.put(heap+0x100, text+5) // no function starts there: a walk has no opinion
			},
			map[string]uint64{"reboot_notifier_list.head->notifier_call": text, "reboot_notifier_list.head->next->notifier_call": text + 5},
		},
		"an xarray with a node": {
			func(f *fixture) {
				f.put(f.global("prog_idr"), heap+2)
				f.put(heap+nodeSlots+3*8, heap+0x800)
				f.put(heap+0x800, text)
			},
			map[string]uint64{"prog_idr[4].bpf_func": text},
		},
		"an xarray with one entry": {
			func(f *fixture) {
				f.put(f.global("prog_idr"), heap)
				f.put(heap, text)
			},
			map[string]uint64{"prog_idr[0].bpf_func": text},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFixture()
			tt.build(f)
			if diff := cmp.Diff(tt.want, found(f.walk(t))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// A value that several pointers have is one target with their number.
func TestWalkGroupsByTarget(t *testing.T) {
	f := newFixture()
	f.put(f.global("reboot_notifier_list"), heap)
	f.put(heap, text)
	f.put(heap+8, heap+0x100)
	f.put(heap+0x100, text)
	r := f.walk(t)
	want := []Pointer{{Value: text, Count: 2, At: heap, Low: heap, High: heap + 0x100, Path: "reboot_notifier_list.head->notifier_call"}}
	if diff := cmp.Diff(want, r.Pointers); diff != "" {
		t.Error(diff)
	}
	if r.Reached != 2 || r.Known != 2 || r.Filled != 2 || r.Objects != 3 {
		t.Errorf("reached %d of %d, %d set, in %d objects", r.Reached, r.Known, r.Filled, r.Objects)
	}
}

// What a kernel lacks is said, and not taken for something that was walked.
func TestWalkTellsWhatItLacks(t *testing.T) {
	f := newFixture()
	f.global("reboot_notifier_list")
	all := strings.Join(f.walk(t).NotWalked, "\n")
	for _, want := range []string{"does not have, or several of: init_task", "slab allocator: "} {
		if !strings.Contains(all, want) {
			t.Errorf("does not say %q:\n%s", want, all)
		}
	}
}

func TestWalkEndsOn(t *testing.T) {
	tests := map[string]struct {
		build func(*fixture)
		says  string
	}{
		"a list that does not come back": {func(f *fixture) {
			head := f.global("super_blocks")
			f.put(head, heap)
			f.put(heap, heap+0x100)
			f.put(heap+0x100, heap+0x200)
			f.put(heap+0x200, heap+0x100)
		}, "lists with a cycle"},
		"a list that leads nowhere":       {func(f *fixture) { f.put(f.global("super_blocks"), after+0x10_0000) }, "lists that were cut"},
		"a list that leads to user space": {func(f *fixture) { f.put(f.global("super_blocks"), 0x1000) }, "lists that were cut"},
		"a tree that is its own child": {func(f *fixture) {
			f.put(f.global("proc_root"), heap)
			f.put(heap, heap)
			f.put(heap+16, heap)
		}, "trees that were cut"},
		"an xarray in itself": {func(f *fixture) {
			f.put(f.global("prog_idr"), heap+2)
			f.put(heap+nodeSlots, heap+2)
		}, "trees that were cut"},
		"a million files": {func(f *fixture) {
			f.put(f.global("init_nsproxy"), heap)
			f.put(heap, 1<<31)
			f.put(heap+8, heap)
		}, "arrays with an impossible number of elements"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := newFixture()
			tt.build(f)
			r := f.walk(t)
			if !slices.ContainsFunc(r.NotWalked, func(s string) bool { return strings.Contains(s, tt.says) }) {
				t.Errorf("does not say %q: %q", tt.says, r.NotWalked)
			}
		})
	}
}

// A node of an xarray in each of its own slots is 64^12 nodes.
func TestWalkIsLimited(t *testing.T) {
	f := newFixture()
	f.put(f.global("prog_idr"), heap+2)
	for slot := range uint64(64) {
		f.put(heap+nodeSlots+8*slot, heap+2)
	}
	if r := f.walk(t); !r.Limited {
		t.Errorf("came to an end: %d objects, %q", r.Objects, r.NotWalked)
	}
	asked := false
	brief := &Suspicion{Brief: true, Wrong: func([]Pointer, []Pointer) map[uint64]bool { asked = true; return nil }}
	if r := f.suspects(t, brief); !r.Limited || asked {
		t.Errorf("a walk that was to be brief: limited %v, asked which pointers look wrong: %v", r.Limited, asked)
	}
}

// FuzzWalk gives a walk objects of any content: it ends, and the same memory
// gives the same result.
func FuzzWalk(f *testing.F) {
	f.Add([]byte{}, uint8(0))
	f.Add(bytes.Repeat([]byte{0, 0, 0x30, 0x80, 0xff, 0xff, 0xff, 0xff}, 64), uint8(1))
	f.Add(bytes.Repeat([]byte{2, 0x10, 0x30, 0x80, 0xff, 0xff, 0xff, 0xff}, 64), uint8(2))
	f.Fuzz(func(t *testing.T, content []byte, shift uint8) {
		build := func() *Result {
			fx := newFixture()
			for i, name := range []string{"super_blocks", "proc_root", "reboot_notifier_list", "prog_idr", "init_nsproxy"} {
				fx.put(fx.global(name), heap+uint64(i)*uint64(shift))
			}
			fx.Write(heap-base, content[:min(len(content), 0x4000)]...)
			return fx.walk(t)
		}
		a, b := build(), build()
		if diff := cmp.Diff(a, b); diff != "" {
			t.Errorf("the same memory gives another result: %s", diff)
		}
		if a.Reached > a.Known || a.Filled > a.Reached {
			t.Errorf("reached %d of %d, %d set", a.Reached, a.Known, a.Filled)
		}
	})
}
