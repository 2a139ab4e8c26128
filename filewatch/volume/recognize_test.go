package volume_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io/fs"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume"
)

// image is a disk of zeros with some bytes set.
func image(size int, set map[int]string) *bytes.Reader {
	b := make([]byte, size)
	for off, s := range set {
		copy(b[off:], s)
	}
	return bytes.NewReader(b)
}

// Whatever has no reader is listed by name and with a reason, and every use of
// it says that it is not measured.
func TestRecognizesWhatItDoesNotRead(t *testing.T) {
	md := binary.LittleEndian.AppendUint32(nil, 0xa92b4efc)
	for _, c := range []struct {
		kind string
		set  map[int]string
	}{
		{"btrfs", map[int]string{0x10040: "_BHRfS_M"}},
		{"ntfs", map[int]string{3: "NTFS    ", 510: "\x55\xaa"}},
		{"exfat", map[int]string{3: "EXFAT   ", 510: "\x55\xaa"}},
		{"BitLocker", map[int]string{3: "-FVE-FS-", 510: "\x55\xaa"}},
		{"crypto_LUKS", map[int]string{0: "LUKS\xba\xbe"}},
		{"linux_raid_member", map[int]string{4096: string(md)}},
		// An array of version 1.0 leaves the start to the file system in it.
		{"linux_raid_member", map[int]string{1024 + 56: "\x53\xef", 2<<20 - 8192: string(md) + "\x01\x00\x00\x00"}},
		{"squashfs", map[int]string{0: "hsqs"}},
		{"f2fs", map[int]string{1024: "\x10\x20\xf5\xf2"}},
		{"zfs_member", map[int]string{132 << 10: "\x0c\xb1\xba\x00\x00\x00\x00\x00"}},
		{"swap", map[int]string{4086: "SWAPSPACE2"}},
		{"swap", map[int]string{65526: "SWAPSPACE2"}},
		{"apfs", map[int]string{32: "NXSB"}},
		{"iso9660", map[int]string{32769: "CD001"}},
		{"erofs", map[int]string{1024: "\xe2\xe1\xf5\xe0"}},
		{"", nil},
	} {
		t.Run(c.kind, func(t *testing.T) {
			d, err := volume.Open(image(2<<20, c.set), 2<<20)
			if err != nil {
				t.Fatal(err)
			}
			if len(d.Volumes) != 1 || d.Volumes[0].Type != c.kind || d.Volumes[0].NotMeasured == "" {
				t.Fatalf("volumes %+v", d.Volumes[0])
			}
			v := d.Volumes[0]
			none := func(*filewatch.Object, filewatch.Content, error) error { return nil }
			if err := v.Objects(t.Context(), none); !errors.Is(err, volume.ErrNotMeasured) {
				t.Errorf("objects: %v", err)
			}
			if err := v.Names(t.Context(), func(filewatch.Name, error) error { return nil }); !errors.Is(err, volume.ErrNotMeasured) {
				t.Errorf("names: %v", err)
			}
			if err := v.Scan(t.Context(), nil, nil); !errors.Is(err, volume.ErrNotMeasured) {
				t.Errorf("scan: %v", err)
			}
			if _, err := fs.ReadDir(v.FS(), "."); !errors.Is(err, volume.ErrNotMeasured) {
				t.Errorf("file system: %v", err)
			}
		})
	}
}

// A file system that its reader refuses is listed with its type and the cause.
func TestDamagedSuperblock(t *testing.T) {
	d, err := volume.Open(image(2<<20, map[int]string{1024 + 56: "\x53\xef"}), 2<<20)
	if err != nil {
		t.Fatal(err)
	}
	if v := d.Volumes[0]; v.Type != "ext4" || !errors.Is(v.Cause, filewatch.ErrCorrupt) {
		t.Errorf("volume %+v", v)
	}
}

// failing is a disk whose every read fails.
type failing struct{}

func (failing) ReadAt([]byte, int64) (int, error) { return 0, errors.New("medium error") }

func TestUnreadableDisk(t *testing.T) {
	if d, err := volume.Open(failing{}, 1<<20); err == nil || d != nil {
		t.Errorf("disk %v, error %v", d, err)
	}
}
