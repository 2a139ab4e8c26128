package lvm_test

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"io"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch/volume"
	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
)

// sum is the checksum of LVM2: CRC-32 from another start (lib/misc/crc.c, 2.03).
func sum(b []byte) uint32 { return ^crc32.Update(^uint32(0xf597a6cf), crc32.IEEETable, b) }

// renamed replaces bytes of a physical volume's label and of its newest metadata, and
// puts the checksums right.
func renamed(t *testing.T, pv []byte, replacements ...string) []byte {
	t.Helper()
	pv = bytes.Clone(pv)
	const label, area = 512, 4096 // of the test's image
	at := area + int(binary.LittleEndian.Uint64(pv[area+40:]))
	text := pv[at : at+int(binary.LittleEndian.Uint64(pv[area+48:]))]
	for _, part := range [][]byte{pv[label : label+512], text} {
		new := strings.NewReplacer(replacements...).Replace(string(part))
		if copy(part, new) != len(new) {
			t.Fatal("test is wrong: the length changes")
		}
	}
	binary.LittleEndian.PutUint32(pv[label+16:], sum(pv[label+20:label+512]))
	binary.LittleEndian.PutUint32(pv[area+56:], sum(text))
	binary.LittleEndian.PutUint32(pv[area:], sum(pv[area+4:area+512]))
	return pv
}

// A second physical volume with the first one's identity, or a second group with its
// name, is not taken for what the guest uses.
func TestDetectsTwins(t *testing.T) {
	_, f := volumetest.Open(t, volumetest.Unpack(t, "testdata/group.img.zst"))
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	pv := make([]byte, 32<<20)
	if _, err := io.ReadFull(io.NewSectionReader(f, first, int64(len(pv))), pv); err != nil {
		t.Fatal(err)
	}
	open := func(other []byte) (groups, unclear int) {
		d, err := volume.OpenAll([]volume.Source{{Name: "real", Disk: f, Size: st.Size()}, {Name: "other", Disk: bytes.NewReader(other), Size: int64(len(other))}})
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range d.Volumes {
			switch {
			case v.Name == "testvg/second":
				groups++
			case strings.Contains(v.NotMeasured, "cannot be told"):
				unclear++
			}
		}
		return groups, unclear
	}
	if groups, unclear := open(make([]byte, 1<<20)); groups != 1 || unclear != 0 {
		t.Errorf("benign twin: %d groups, %d unclear", groups, unclear)
	}
	if groups, unclear := open(pv); groups != 1 || unclear != 1 {
		t.Errorf("the same identity: %d groups, %d unclear", groups, unclear)
	}
	other := renamed(t, pv, "Njr1NS-gfi6", "Njr1NS-gfi7", "Njr1NSgfi6", "Njr1NSgfi7", "Yq9Gk2", "Yq9Gk3")
	if groups, unclear := open(other); groups != 2 || unclear != 0 {
		t.Errorf("another group of the name: %d groups, %d unclear", groups, unclear)
	}
}
