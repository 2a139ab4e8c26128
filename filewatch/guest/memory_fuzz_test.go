package guest

import (
	"bytes"
	"slices"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/internal/sorted"
	"github.com/plumbline-sec/plumbline/internal/sorted/sortedtest"
)

// someOverlay is of a small volume.
func someOverlay() *overlay {
	o := newOverlay()
	p := place{inode: 12, size: 5000, extents: []filewatch.Extent{{Physical: 8192, Length: 8192}, {Physical: 1 << 20, Logical: -1, Length: 4096}}}
	o.places[2], o.places[11], o.places[12] = (&place{inode: 2}).append(nil), nil, p.append(nil)
	o.entries = []entry{{2, 2, "."}, {12, 2, "file"}, {12, 2, "other"}}
	return o
}

func FuzzMemory(f *testing.F) {
	m := &Memory{volumes: []*volumeMemory{
		{id: "a", kind: "ext4", point: "/", size: 1 << 30, clean: true, marks: []byte("marks"), root: 2, base: sorted.Ref{Name: "volume-1", Size: 9, Index: 3, BLAKE3: "00"}, over: someOverlay()},
		{id: "b", kind: "vfat", point: "/boot", layout: "l", refused: "why", over: newOverlay()},
	}}
	f.Add(m.append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseMemory("", b)
		if (m == nil) == (err == nil) {
			t.Fatalf("%v and %v", m, err)
		}
		if err != nil {
			return
		}
		encoded := m.append(nil)
		if again, err := ParseMemory("", encoded); err != nil || !bytes.Equal(encoded, again.append(nil)) {
			t.Fatalf("does not come back: %v", err)
		}
	})
}

// A base whose blocks are as their digests say and hold anything, with anything
// over it: answers or errors, in bounded time.
func FuzzBase(f *testing.F) {
	entries, err := someOverlay().encode()
	if err != nil {
		f.Fatal(err)
	}
	var packed []byte
	for _, e := range entries {
		packed = append(append(packed, byte(len(e))), e...)
	}
	f.Add(packed, someOverlay().append(nil))
	f.Add(packed, newOverlay().append(nil))
	f.Fuzz(func(t *testing.T, packed, over []byte) {
		var entries [][]byte
		for len(packed) > 0 {
			n := min(int(packed[0]), len(packed)-1)
			entries = append(entries, packed[1:1+n])
			packed = packed[1+n:]
		}
		slices.SortFunc(entries, bytes.Compare)
		o, d := newOverlay(), memoryDecoder{rest: over}
		if d.overlay(o); d.err != nil {
			return
		}
		v := newView(2, "/", sortedtest.Of(t, entries), o)
		for inode := range uint64(20) {
			v.of(inode)
			v.in(inode)
		}
		places := v.places()
		for inode := range uint64(20) {
			if body, err := places.find(inode); err == nil && body != nil {
				var p place
				body.decode(inode, &p)
			}
		}
		owners := map[uint64]bool{}
		v.owners([]filewatch.Extent{{Physical: 0, Length: 4096}, {Physical: 12288, Length: 4096}, {Physical: 1 << 40, Length: 1 << 20}}, owners)
		v.below(map[uint64]bool{2: true})
		(&volumeMemory{over: o}).fold(v.base, sorted.NewWriter(&bytes.Buffer{}))
	})
}

// The reverse map finds the owners of runs as looking at every object does.
func TestOwnersAreThoseWhoseExtentsMeet(t *testing.T) {
	o := newOverlay()
	at := int64(4096)
	for inode := uint64(12); inode < 3000; inode++ {
		length := int64(1+inode*inode%37) << (12 + inode%7)
		p := place{inode: inode, extents: []filewatch.Extent{{Physical: at, Length: length}}}
		o.places[inode] = p.append(nil)
		if at += length; inode%5 == 0 {
			at += 64 << 10 // nobody's
		}
	}
	entries, err := o.encode()
	if err != nil {
		t.Fatal(err)
	}
	base := newView(2, "/", sortedtest.Of(t, entries), newOverlay())
	for step := int64(4096); step < at; step = step * 7 / 2 {
		var runs []filewatch.Extent
		for off := step / 3; off < at; off += 3 * step {
			runs = append(runs, filewatch.Extent{Physical: off, Length: max(512, step/5)})
		}
		want, got := map[uint64]bool{}, map[uint64]bool{}
		var p place
		for inode, body := range o.places {
			if err := body.decode(inode, &p); err != nil {
				t.Fatal(err)
			}
			if p.on(runs) {
				want[inode] = true
			}
		}
		if err := base.owners(runs, got); err != nil {
			t.Fatal(err)
		}
		if len(got) != len(want) {
			t.Errorf("%d runs: %d owners, want %d", len(runs), len(got), len(want))
		}
		for inode := range want {
			if !got[inode] {
				t.Errorf("%d runs: inode %d is not among the owners", len(runs), inode)
			}
		}
	}
}
