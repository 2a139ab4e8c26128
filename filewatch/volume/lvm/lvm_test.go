package lvm_test

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume"
	"github.com/plumbline-sec/plumbline/filewatch/volume/lvm"
	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
)

const (
	extent = 1 << 20
	// peStart is where the first extent lies in each physical volume, here as
	// always: 1 MiB.
	peStart = 1 << 20
	first   = 2048 * 512 // of the partitions that are the physical volumes
	second  = 67584 * 512
)

// The mapping is compared with what lvs(8) printed when the image was made.
func TestMapping(t *testing.T) {
	d, _ := volumetest.Open(t, volumetest.Unpack(t, "testdata/group.img.zst"))
	if len(d.Damage) > 0 {
		t.Fatal(d.Damage)
	}
	got := map[string][]filewatch.Extent{}
	for _, v := range d.Volumes {
		got[v.Name] = v.DiskExtents(0, v.Size)
		if v.NotMeasured != "no known file system" {
			t.Errorf("%s: %q", v.Name, v.NotMeasured)
		}
	}
	if diff := cmp.Diff(segments(t), got); diff != "" {
		t.Errorf("extents (-lvs +got):\n%s", diff)
	}
}

// segments reads lines of name, first extent, type, stripes, stripe size and
// ranges of physical extents.
func segments(t *testing.T) map[string][]filewatch.Extent {
	t.Helper()
	b, err := os.ReadFile("testdata/segments.txt")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]filewatch.Extent{}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		name := "testvg/" + f[0]
		start, _ := strconv.ParseInt(f[1], 10, 64)
		size, _ := strconv.ParseFloat(f[4], 64)
		var at []int64
		var length int64
		for _, r := range f[5:] {
			var pv, from, to int64
			if _, err := fmt.Sscanf(r, "pv%d:%d-%d", &pv, &from, &to); err != nil {
				t.Fatal(err)
			}
			base := []int64{first, second}[pv]
			at = append(at, base+peStart+from*extent)
			length = (to - from + 1) * extent
		}
		chunk := int64(size) << 10
		if len(at) == 1 {
			chunk = length
		}
		for off := int64(0); off < length; off += chunk {
			for i, a := range at {
				out[name] = append(out[name], filewatch.Extent{Logical: start*extent + off*int64(len(at)) + int64(i)*chunk, Physical: a + off, Length: chunk})
			}
		}
	}
	return out
}

// A group with a disk missing lists the volumes that lie on it by name.
func TestMissingDisk(t *testing.T) {
	_, f := volumetest.Open(t, volumetest.Unpack(t, "testdata/group.img.zst"))
	d, err := volume.Open(io.NewSectionReader(f, first, 32<<20), 32<<20)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]bool{}
	for _, v := range d.Volumes {
		got[v.Name] = strings.Contains(v.NotMeasured, "physical volume pv1 of group testvg is missing")
	}
	want := map[string]bool{"testvg/linear": true, "testvg/second": false, "testvg/striped": true}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("missing (-want +got):\n%s", diff)
	}
}

// A physical volume whose metadata is damaged is listed with the reason.
func TestDamagedMetadata(t *testing.T) {
	_, f := volumetest.Open(t, volumetest.Unpack(t, "testdata/group.img.zst"))
	p := &volumetest.Patched{ReaderAt: io.NewSectionReader(f, first, 32<<20), Patches: map[int64]byte{4096 + 40: 0xFF}}
	d, err := volume.Open(p, 32<<20)
	if err != nil {
		t.Fatal(err)
	}
	v := d.Volumes[0]
	if len(d.Volumes) != 1 || v.Type != "LVM2_member" || !errors.Is(v.Cause, filewatch.ErrCorrupt) {
		t.Errorf("volumes %+v", v)
	}
}

// Labels, metadata headers and texts damaged under their checksums: every volume
// is mapped within the disk or says why not.
func TestDamage(t *testing.T) {
	_, f := volumetest.Open(t, volumetest.Unpack(t, "testdata/group.img.zst"))
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	volumetest.DamageDisk(t, f, st.Size(), volumetest.Variants(1), crc32.IEEE, volumetest.Listing(st.Size()))
}

func FuzzGroup(f *testing.F) {
	_, img := volumetest.Open(f, volumetest.Unpack(f, "testdata/group.img.zst"))
	p, err := lvm.ReadPhysical(io.NewSectionReader(img, first, 32<<20), 32<<20)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p.Text)
	f.Fuzz(func(t *testing.T, text string) {
		l, err := lvm.Group(text, nil)
		if l != nil && err != nil {
			t.Fatalf("%d volumes and %v", len(l), err)
		}
		for _, v := range l {
			if (v.Device == nil) == (v.Reason == "") {
				t.Fatalf("volume %s: device %v, reason %q", v.Name, v.Device, v.Reason)
			}
		}
	})
}

// Volumes that are not plain ranges of disks are listed with their kind.
func TestOtherKindsOfVolumes(t *testing.T) {
	const text = `vg {
id = "aaaaaa-0000-0000-0000-0000-0000-000001"
seqno = 1
extent_size = 2048
physical_volumes { pv0 { id = "bbbbbb-0000-0000-0000-0000-0000-000001" pe_start = 2048 pe_count = 10 } }
logical_volumes {
v { id = "cccccc-0000-0000-0000-0000-0000-000001" status = ["READ", "WRITE", "VISIBLE"] segment_count = 1
segment1 { start_extent = 0 extent_count = 2 type = "%s" stripe_count = 1 stripes = ["pv0", 0] } }
} }`
	for _, kind := range []string{"thin", "thin-pool", "snapshot", "raid1", "raid5_ls", "mirror", "cache", "vdo", "zero", "error"} {
		l, err := lvm.Group(fmt.Sprintf(text, kind), nil)
		if err != nil || len(l) != 1 || l[0].Device != nil || l[0].Reason != "LVM volume of type "+kind {
			t.Errorf("%s: %+v, %v", kind, l, err)
		}
	}
}
