package vfat_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume"
	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
)

// makeImage makes a file system of the tree with mkfs.vfat and mcopy.
func makeImage(t testing.TB, tree volumetest.Tree, kib string, args ...string) string {
	t.Helper()
	src, img := volumetest.Dir(t), filepath.Join(volumetest.Dir(t), "img")
	tree.Write(t, src)
	volumetest.Tool(t, "mkfs.vfat", append(append([]string{"-C", "-i", "1234ABCD", "-n", "A LABEL"}, args...), img, kib)...)
	top, err := filepath.Glob(src + "/*")
	if err != nil {
		t.Fatal(err)
	}
	if len(top) > 0 {
		volumetest.Tool(t, "mcopy", append(append([]string{"-s", "-m", "-Q", "-i", img}, top...), "::/")...)
	}
	return img
}

// fatTree is the common tree and names that need a long entry, or none, or the
// case bits of Windows NT.
func fatTree() volumetest.Tree {
	return append(volumetest.Plain(), volumetest.Names("lower.txt", "UPPER.TXT", "Mixed.Txt", "two.dots.txt", ".hidden", "sp ace")...)
}

func TestConformance(t *testing.T) {
	// mcopy writes local time, which is what FAT keeps; the suite takes it as UTC.
	t.Setenv("TZ", "UTC")
	for _, v := range []struct {
		name, kib string
		args      []string
	}{
		{"fat12", "3072", []string{"-F", "12"}},
		{"fat16", "16384", []string{"-F", "16"}},
		{"fat32", "65536", []string{"-F", "32", "-s", "1"}},
		{"fat16-mbr", "16384", []string{"-F", "16", "--mbr=y"}},
		{"fat32-4k-sectors", "300000", []string{"-F", "32", "-S", "4096"}},
	} {
		t.Run(v.name, func(t *testing.T) {
			tree := fatTree()
			vol := volumetest.One(t, makeImage(t, tree, v.kib, v.args...))
			if vol.Type != "vfat" || vol.Partition != 0 || vol.UUID != "1234-ABCD" || vol.Label != "A LABEL" {
				t.Errorf("type %q, serial %q, label %q", vol.Type, vol.UUID, vol.Label)
			}
			volumetest.Check(t, vol, tree, volumetest.Features{NoUnix: true})
		})
	}
}

// A second table that the boot sector calls the one in use, and Linux does not, is not
// believed.
func TestDetectsSecondTable(t *testing.T) {
	b, err := os.ReadFile(makeImage(t, volumetest.Plain(), "36864", "-F", "32", "-s", "1"))
	if err != nil {
		t.Fatal(err)
	}
	for flags, want := range map[byte]error{0x00: nil, 0x80: nil, 0x01: nil, 0x81: filewatch.ErrNotSupported} {
		b[0x28] = flags
		d, err := volume.Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		if got := d.Volumes[0].Cause; !errors.Is(got, want) || want == nil && got != nil {
			t.Errorf("flags %#x: %v, want %v", flags, got, want)
		}
	}
}

func TestDamage(t *testing.T) {
	flavours := [][]string{{"3072", "-F", "12"}, {"16384", "-F", "16"}, {"36864", "-F", "32", "-s", "1"}}
	for _, f := range flavours {
		t.Run("fat"+f[2], func(t *testing.T) {
			b, err := os.ReadFile(makeImage(t, volumetest.Plain(), f[0], f[1:]...))
			if err != nil {
				t.Fatal(err)
			}
			volumetest.Damage(t, bytes.NewReader(b), int64(len(b)), volumetest.Variants(len(flavours)), volumetest.NoChecksums)
		})
	}
}

func FuzzOpen(f *testing.F) {
	img, err := os.ReadFile(makeImage(f, fatTree().Small(), "512", "-F", "12"))
	if err != nil {
		f.Fatal(err)
	}
	volumetest.Fuzz(f, img)
}
