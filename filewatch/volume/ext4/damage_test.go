package ext4_test

import (
	"bytes"
	"os"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch/volume"
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

// FuzzOpen feeds whole images: the fuzzer changes one region of a small real
// one. Whatever comes out is a volume or a reason, and never both.
func FuzzOpen(f *testing.F) {
	img, err := os.ReadFile(makeImage(f, volumetest.Tree{}, "64k", "-t", "ext4", "-b", "1024", "-N", "16", "-O", "^has_journal,^resize_inode,^metadata_csum"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(uint32(1024), img[1024:2048])
	f.Add(uint32(2048), img[2048:3072])
	f.Add(uint32(5*1024), img[5*1024:7*1024])
	f.Fuzz(func(t *testing.T, off uint32, b []byte) {
		m := bytes.Clone(img)
		copy(m[min(int(off), len(m)):], b)
		d, err := volume.Open(bytes.NewReader(m), int64(len(m)))
		if err != nil {
			t.Fatal(err) // reading memory does not fail
		}
		for _, v := range d.Volumes {
			s, err := volumetest.Read(t.Context(), v)
			if (v.NotMeasured != "") != (err != nil) {
				t.Fatalf("volume %q: error %v, state %v", v.NotMeasured, err, s)
			}
		}
	})
}
