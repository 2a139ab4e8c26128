package xfs_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume"
	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
)

// Linux looks names up by the index alone: one that it does not have is gone for the
// guest, one that leads elsewhere opens something that no listing shows.
func TestDetectsIndexThatDiffersFromNames(t *testing.T) {
	be := binary.BigEndian
	for _, form := range []struct {
		name  string
		tree  volumetest.Tree
		magic uint16 // of the index's blocks, at 8; their count is at 12, entries from 16 on
	}{
		{"leaf", protoTree(), 0xd2f1},
		{"nodes", manyNames(1200), 0xd2ff},
	} {
		img := makeImage(t, form.tree, "40m", "-m", "crc=0")
		clean, err := os.ReadFile(img)
		if err != nil {
			t.Fatal(err)
		}
		at := -1
		for n := 0; n < len(clean); n += 512 {
			if be.Uint16(clean[n+8:]) == form.magic && be.Uint16(clean[n+12:]) > 20 {
				at = n
			}
		}
		if at < 0 {
			t.Fatalf("no directory has the form of %s", form.name)
		}
		for name, c := range map[string]struct {
			change func(entries []byte)
			bad    bool
		}{
			"as it is":           {func([]byte) {}, false},
			"a name left out":    {func(e []byte) { be.PutUint32(e[4:], 0) }, true},
			"a name elsewhere":   {func(e []byte) { be.PutUint32(e[4:], be.Uint32(e[4:])+1) }, true},
			"two exchanged":      {func(e []byte) { a := string(e[4:8]); copy(e[4:8], e[12:16]); copy(e[12:], a) }, true},
			"another hash":       {func(e []byte) { be.PutUint32(e, be.Uint32(e)-1) }, true},
			"out of their order": {func(e []byte) { a := string(e[:8]); copy(e, e[8:16]); copy(e[8:], a) }, true},
		} {
			t.Run(form.name+"/"+name, func(t *testing.T) {
				b := bytes.Clone(clean)
				c.change(b[at+16:])
				if bad := namesDamaged(t, b); bad != c.bad {
					t.Errorf("damaged %v", bad)
				}
			})
		}
	}
}

// The index at the end of a directory's only block counts too.
func TestDetectsIndexOfOneBlock(t *testing.T) {
	img := makeImage(t, volumetest.Names("a-name-that-is-long-enough-for-a-block-of-its-own-0", "a-name-that-is-long-enough-for-a-block-of-its-own-1", "a-name-that-is-long-enough-for-a-block-of-its-own-2",
		"a-name-that-is-long-enough-for-a-block-of-its-own-3", "a-name-that-is-long-enough-for-a-block-of-its-own-4", "a-name-that-is-long-enough-for-a-block-of-its-own-5",
		"a-name-that-is-long-enough-for-a-block-of-its-own-6", "a-name-that-is-long-enough-for-a-block-of-its-own-7", "a-name-that-is-long-enough-for-a-block-of-its-own-8"), "40m", "-m", "crc=0")
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b, []byte("XD2B"))
	if at < 0 {
		t.Fatal("no directory of one block")
	}
	for _, bad := range []bool{false, true} {
		if bad {
			binary.BigEndian.PutUint32(b[at+4096-8-4:], 0) // the last name has no address
		}
		if damaged := namesDamaged(t, b); damaged != bad {
			t.Errorf("damaged %v, want %v", damaged, bad)
		}
	}
}

func manyNames(n int) volumetest.Tree {
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("a-file-%d", i))
	}
	return volumetest.Names(names...)
}

// The kernel finds an attribute by its hash alone.
func TestDetectsAttributesUnderOtherHashes(t *testing.T) {
	be := binary.BigEndian
	clean, err := os.ReadFile(volumetest.Unpack(t, "testdata/deep.img.zst"))
	if err != nil {
		t.Fatal(err)
	}
	damaged := func(b []byte) (n int) {
		d, err := volume.Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Volumes[0].Objects(t.Context(), func(_ *filewatch.Object, _ filewatch.Content, damage error) error {
			if damage != nil {
				n++
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return n
	}
	other := bytes.Clone(clean)
	castagnoli := crc32.MakeTable(crc32.Castagnoli)
	for n := 0; n < len(other); n += 1024 { // struct xfs_attr3_leafblock, the checksum put right
		leaf := other[n : n+1024]
		if count := int(be.Uint16(leaf[56:])); be.Uint16(leaf[8:]) == 0x3bee && count > 0 && count < 100 {
			e := leaf[80+8*(count-1):]
			be.PutUint32(e, be.Uint32(e)+1)
			clear(leaf[12:16])
			binary.LittleEndian.PutUint32(leaf[12:], crc32.Checksum(leaf, castagnoli))
		}
	}
	if before, after := damaged(clean), damaged(other); before != 0 || after == 0 {
		t.Errorf("%d objects were damaged, %d are", before, after)
	}
}

// namesDamaged says whether a directory of the volume is.
func namesDamaged(t *testing.T, b []byte) (bad bool) {
	t.Helper()
	d, err := volume.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Volumes[0].Names(t.Context(), func(_ filewatch.Name, damage error) error {
		bad = bad || damage != nil
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return bad
}
