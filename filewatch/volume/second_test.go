package volume_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch/volume"
	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
)

// told says whether the disk is told to have a superblock of another family too.
func told(d *volume.Disk, kind string) bool {
	for _, err := range d.Damage {
		if strings.Contains(err.Error(), "has a superblock of "+kind+" too") {
			return true
		}
	}
	return false
}

// An ext4 that e2fsck finds nothing in, laid around a btrfs that Linux mounts as well
// (6.18, such an image): reading the one says nothing of the other.
func TestDetectsTwoFileSystemsInOneVolume(t *testing.T) {
	path := volumetest.Unpack(t, "testdata/recognized/btrfs.img.zst")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const block = 4096
	var used strings.Builder
	for n := range len(b) / block {
		if !bytes.Equal(b[n*block:(n+1)*block], make([]byte, block)) {
			fmt.Fprintln(&used, n)
		}
	}
	list, both := filepath.Join(volumetest.Dir(t), "used"), filepath.Join(volumetest.Dir(t), "both")
	for name, content := range map[string][]byte{list: []byte(used.String()), both: b} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	volumetest.Tool(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-O", "^resize_inode", "-E", "lazy_itable_init=0,nodiscard", "-l", list, both)
	volumetest.Tool(t, "e2fsck", "-fn", both)
	d, _ := volumetest.Open(t, both)
	if v := d.Volumes[0]; v.Type != "ext4" || v.NotMeasured != "" || !told(d, "btrfs") {
		t.Errorf("volume %+v, damage %v", v, d.Damage)
	}
}

// Whatever else Linux mounts and leaves room for what is read is told by name.
func TestDetectsSecondSuperblocks(t *testing.T) {
	for _, c := range []struct {
		kind string
		set  map[int]string
	}{
		{"ntfs", map[int]string{3: "NTFS    "}},
		{"exfat", map[int]string{3: "EXFAT   "}},
		{"squashfs", map[int]string{0: "hsqs"}},
		{"f2fs", map[int]string{5120: "\x10\x20\xf5\xf2"}}, // the second of its superblocks
		{"ocfs2", map[int]string{8192: "OCFSV2"}},
		{"jfs", map[int]string{32768: "JFS1"}},
		{"reiserfs", map[int]string{65536 + 52: "ReIsErFs"}},
		{"gfs2", map[int]string{65536: "\x01\x16\x19\x70\x00\x00\x00\x01"}},
		{"iso9660", map[int]string{32769: "CD001"}},
		{"udf", map[int]string{32769: "BEA01"}},
		{"vfat", map[int]string{11: "\x00\x02\x04\x01\x00\x02\x00\x02\x00\x20\xF8\x08\x00"}},
	} {
		t.Run(c.kind, func(t *testing.T) {
			b := fileSystem(t)
			for off, magic := range c.set {
				copy(b[off:], magic)
			}
			d, err := volume.Open(bytes.NewReader(b), int64(len(b)))
			if err != nil {
				t.Fatal(err)
			}
			if len(d.Volumes) != 1 || !told(d, c.kind) && d.Volumes[0].NotMeasured == "" {
				t.Errorf("volumes %+v, damage %v", d.Volumes[0], d.Damage)
			}
		})
	}
}

// A file system by itself, a boot loader before it and swap space that was there are
// nothing to tell.
func TestAcceptsOneFileSystem(t *testing.T) {
	b := fileSystem(t)
	copy(b, "\xeb\x3c\x90GRUB loader")
	copy(b[510:], "\x55\xaa")
	copy(b[4086:], "SWAPSPACE2")
	d, err := volume.Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if len(d.Damage) > 0 || d.Volumes[0].NotMeasured != "" {
		t.Errorf("volume %+v, damage %v", d.Volumes[0], d.Damage)
	}
}
