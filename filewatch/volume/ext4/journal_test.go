package ext4_test

import (
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
)

// Images copied in the middle of writes read as the kernel read them after its
// own replay of the same copy.
func TestJournalReplay(t *testing.T) {
	for _, name := range []string{"plain", "ext3", "data-journal", "checksum-v1"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := volumetest.One(t, volumetest.Unpack(t, "testdata/"+name+".img.zst"))
			if !strings.Contains(v.Replayed, "transactions") {
				t.Fatalf("replayed %q: the image has nothing to replay", v.Replayed)
			}
			volumetest.CheckLines(t, v, "testdata/"+name+".txt")
		})
	}
}

// The same for fast commits. The kernel stamps directories with the time of the
// replay, so their times are not compared.
func TestFastCommitReplay(t *testing.T) {
	v := volumetest.One(t, volumetest.Unpack(t, "testdata/fast.img.zst"))
	if !strings.Contains(v.Replayed, "fast-commit records") {
		t.Fatalf("replayed %q: the image has no fast commits", v.Replayed)
	}
	volumetest.CheckLines(t, v, "testdata/fast.txt", "new", "old")
}
