package volume_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch/volume"
	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
)

// fileSystem is an empty ext4 of 4 MiB, always with the same UUID.
func fileSystem(t *testing.T) []byte {
	t.Helper()
	return fileSystemOf(t, "aaaa1111-0000-4000-8000-000000000001")
}

func fileSystemOf(t *testing.T, uuid string) []byte {
	t.Helper()
	path := filepath.Join(volumetest.Dir(t), "fs")
	volumetest.Tool(t, "mke2fs", "-q", "-F", "-t", "ext4", "-U", uuid, path, "4M")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// partitioned is a disk of 16 MiB with partitions of 4 MiB at 4 and at 10 MiB.
func partitioned(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(volumetest.Dir(t), "disk")
	if err := os.WriteFile(path, make([]byte, 16<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	sfdisk := exec.Command("sfdisk", "-q", path)
	sfdisk.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	sfdisk.Stdin = strings.NewReader("label: dos\nstart=8192,size=8192,type=83\nstart=20480,size=8192,type=83\n")
	if out, err := sfdisk.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v\n%s", err, out)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// A guest that shows a clean copy of its file system and uses another is not
// believed: what lies over the whole disk beside partitions is listed, and so is a
// UUID that two have.
func TestDetectsDecoys(t *testing.T) {
	ext4 := fileSystem(t)
	for name, c := range map[string]struct {
		change            func([]byte)
		readable, unclear int
		damaged           bool
	}{
		"one file system":           {change: func(b []byte) { copy(b[4<<20:], ext4) }, readable: 1},
		"one over the whole disk":   {change: func(b []byte) { copy(b[4<<20:], ext4); copy(b[1024:], ext4[1024:3<<20]) }, readable: 1, unclear: 1},
		"whole disk in LVM":         {change: func(b []byte) { copy(b[4<<20:], ext4); copy(b[512:], "LABELONE"); copy(b[536:], "LVM2 001") }, readable: 1, unclear: 1},
		"two with one UUID":         {change: func(b []byte) { copy(b[4<<20:], ext4); copy(b[10<<20:], ext4) }, readable: 2, damaged: true},
		"a boot loader's two bytes": {change: func(b []byte) { copy(b[4<<20:], ext4); copy(b[1080:], "\x53\xef") }, readable: 1},
		"swap before partitions":    {change: func(b []byte) { copy(b[4<<20:], ext4); copy(b[4086:], "SWAPSPACE2") }, readable: 1},
		"swap":                      {change: func(b []byte) { copy(b[4<<20:], ext4); copy(b[10<<20+4086:], "SWAPSPACE2") }, readable: 1},
		"FAT in swap": {change: func(b []byte) {
			copy(b[4<<20:], ext4)
			copy(b[10<<20+4086:], "SWAPSPACE2")
			copy(b[10<<20+11:], []byte{0, 2, 4, 1, 0, 2, 0, 2, 0, 0x20, 0xF8, 8, 0}) // no jump, no signature
		}, readable: 1, unclear: 1},
		"XFS over ext4": {change: func(b []byte) { copy(b[4<<20:], ext4); copy(b[4<<20:], "XFSB") }, unclear: 1},
	} {
		t.Run(name, func(t *testing.T) {
			b := partitioned(t)
			c.change(b)
			d, err := volume.Open(bytes.NewReader(b), int64(len(b)))
			if err != nil {
				t.Fatal(err)
			}
			readable, unclear := 0, 0
			for _, v := range d.Volumes {
				switch {
				case v.NotMeasured == "":
					readable++
				case strings.Contains(v.NotMeasured, "cannot be told"):
					unclear++
				}
			}
			if readable != c.readable || unclear != c.unclear || (len(d.Damage) > 0) != c.damaged {
				t.Errorf("%d read, %d unclear, damage %v", readable, unclear, d.Damage)
			}
		})
	}
}
