package ext4_test

import (
	"bytes"
	"os"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
)

// damaged are the images that are fed damaged: with checksums nothing may be
// missing in silence, without them or under them nothing may hang or crash.
var damaged = []struct {
	name    string
	args    []string
	covered volumetest.Coverage
}{
	{"checksums", []string{"-t", "ext4", "-b", "1024", "-O", "inline_data"}, volumetest.Checksummed},
	{"under-checksums", []string{"-t", "ext4", "-b", "1024", "-O", "inline_data,ea_inode"}, volumetest.Resealed},
	{"none", []string{"-t", "ext4", "-b", "1024", "-O", "^metadata_csum,inline_data"}, volumetest.NoChecksums},
	{"block-map", []string{"-t", "ext3", "-b", "1024"}, volumetest.NoChecksums},
}

// damagedJournals are images copied in the middle of writes: their journal is as
// hostile as the rest.
var damagedJournals = []struct {
	name    string
	covered volumetest.Coverage
}{
	{"plain", volumetest.Resealed}, {"fast", volumetest.Resealed}, {"data-journal", volumetest.NoChecksums}, {"ext3", volumetest.NoChecksums},
}

func TestDamage(t *testing.T) {
	variants := volumetest.Variants(len(damaged) + len(damagedJournals))
	for _, d := range damaged {
		t.Run(d.name, func(t *testing.T) {
			damage(t, makeImage(t, extTree(true), "8M", d.args...), variants, d.covered)
		})
	}
	for _, d := range damagedJournals {
		t.Run("journal-"+d.name, func(t *testing.T) {
			damage(t, volumetest.Unpack(t, "testdata/"+d.name+".img.zst"), variants, d.covered)
		})
	}
}

func damage(t *testing.T, img string, variants int, covered volumetest.Coverage) {
	t.Helper()
	b, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	volumetest.Damage(t, bytes.NewReader(b), int64(len(b)), variants, covered)
}

// FuzzOpen starts from inodes, directories, attributes and maps without
// checksums.
func FuzzOpen(f *testing.F) {
	var images [][]byte
	for _, args := range [][]string{
		{"-t", "ext4", "-O", "^metadata_csum,^has_journal,^resize_inode,inline_data,ea_inode"}, {"-t", "ext2", "-O", "^resize_inode"},
	} {
		b, err := os.ReadFile(makeImage(f, extTree(true).Small(), "1M", append(args, "-b", "1024", "-N", "256")...))
		if err != nil {
			f.Fatal(err)
		}
		images = append(images, b)
	}
	volumetest.Fuzz(f, images...)
}
