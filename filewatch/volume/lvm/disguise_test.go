package lvm_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume/lvm"
	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
)

// A text that LVM reads in another way than it seems to stand there is refused.
func TestDetectsTextOfTwoReadings(t *testing.T) {
	const volume = `v { id = "c" status = ["VISIBLE"] segment_count = 1 segment1 { start_extent = 0 extent_count = 2 type = "striped" stripe_count = 1 stripes = ["pv0", 0] } }`
	text := func(in string) string {
		return "vg { id = \"a\"\nseqno = 1\nextent_size = 2048\nphysical_volumes { pv0 { id = \"b\" pe_start = 2048 } }\nlogical_volumes { " + in + " } }"
	}
	for name, c := range map[string]struct {
		text string
		bad  bool
	}{
		"as it is":         {text(volume), false},
		"a volume twice":   {text(volume + " " + strings.Replace(volume, "0]", "9]", 1)), true},
		"a key twice":      {text(strings.Replace(volume, "stripe_count", "start_extent = 0 stripe_count", 1)), true},
		"a value as group": {text(volume + " v = 1"), true},
		"a path":           {text(volume + " v/segment1 { extent_count = 1 }"), true},
		"an end before":    {text(volume) + "\x00" + text(volume), true},
	} {
		l, err := lvm.Group(c.text, map[string]io.ReaderAt{"b": bytes.NewReader(make([]byte, 8<<20))})
		if errors.Is(err, filewatch.ErrCorrupt) != c.bad || !c.bad && (len(l) != 1 || l[0].Device == nil) {
			t.Errorf("%s: %+v, %v", name, l, err)
		}
	}
}

// Which label and which metadata area count is LVM's choice: the first label that is
// of its sector, the area with the highest number that is not to be ignored.
func TestDetectsLabelsAndAreasThatLVMPassesOver(t *testing.T) {
	_, f := volumetest.Open(t, volumetest.Unpack(t, "testdata/group.img.zst"))
	pv := make([]byte, 32<<20)
	if _, err := io.ReadFull(io.NewSectionReader(f, first, int64(len(pv))), pv); err != nil {
		t.Fatal(err)
	}
	le := binary.LittleEndian
	const label, area = 512, 4096
	// second puts another area at 1 MiB, before the list's end, whose number is other.
	second := func(b []byte, number string) []byte {
		other := renamed(t, pv, "seqno = "+sequence(t, pv), "seqno = "+number)
		copy(b[1<<20:], other[area:1<<20])
		le.PutUint64(b[1<<20+24:], 1<<20)
		le.PutUint32(b[1<<20:], sum(b[1<<20+4:1<<20+512]))
		l := b[label : label+512]
		list := int(le.Uint32(l[20:])) + 40
		for range 2 { // behind data areas, then behind metadata areas
			for le.Uint64(l[list:]) != 0 {
				list += 16
			}
			list += 16
		}
		list -= 16
		copy(l[list+16:], l[list:len(l)-16])
		le.PutUint64(l[list:], 1<<20)
		le.PutUint64(l[list+8:], 1<<20-4096)
		le.PutUint32(l[16:], sum(l[20:]))
		return b
	}
	for name, c := range map[string]struct {
		change func(b []byte) []byte
		uuid   string // begins so
		number string
	}{
		"as it is": {func(b []byte) []byte { return b }, "Njr1NS", sequence(t, pv)},
		"a label that is not of its sector": {func(b []byte) []byte {
			copy(b, b[label:label+512])
			copy(b[le.Uint32(b[20:]):], "decoys")
			le.PutUint32(b[16:], sum(b[20:512]))
			return b
		}, "Njr1NS", sequence(t, pv)},
		"a newer area behind": {func(b []byte) []byte { return second(b, "9") }, "Njr1NS", "9"},
		"an older one":        {func(b []byte) []byte { return second(b, "0") }, "Njr1NS", sequence(t, pv)},
		"one to be ignored": {func(b []byte) []byte {
			b = second(b, "0")
			le.PutUint32(b[area+60:], 1)
			le.PutUint32(b[area:], sum(b[area+4:area+512]))
			return b
		}, "Njr1NS", "0"},
	} {
		p, err := lvm.ReadPhysical(bytes.NewReader(c.change(bytes.Clone(pv))), int64(len(pv)))
		if err != nil || !strings.HasPrefix(p.UUID, c.uuid) || !strings.Contains(p.Text, "seqno = "+c.number+"\n") {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
}

// sequence is the one digit of the metadata's number.
func sequence(t *testing.T, pv []byte) string {
	t.Helper()
	p, err := lvm.ReadPhysical(bytes.NewReader(pv), int64(len(pv)))
	if err != nil {
		t.Fatal(err)
	}
	id, err := lvm.Identify(p.Text)
	if err != nil || id.Sequence > 8 || id.Sequence < 1 {
		t.Fatal(id, err)
	}
	return string(rune('0' + id.Sequence))
}
