package ext4_test

import (
	"path/filepath"
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

// A journal on another device is not needed when it is clean, and without it
// nothing is read when it is not. The journal's own device is named as such.
func TestExternalJournal(t *testing.T) {
	img := makeImage(t, extTree(false), "16M", "-t", "ext4", "-O", "^has_journal")
	debugfs(t, img, "ssv journal_dev 0x801", "ssv journal_uuid 6f1c3a2e-1111-4111-8111-000000000002")
	debugfsFeatures(t, img, "has_journal")
	volumetest.Check(t, volumetest.One(t, img), extTree(false), extFeatures)
	debugfsFeatures(t, img, "needs_recovery")
	volumetest.Refused(t, img, "journal is on another device and needs replay")
	device := filepath.Join(volumetest.Dir(t), "journal")
	volumetest.Tool(t, "mke2fs", "-q", "-F", "-O", "journal_dev", device, "8M")
	volumetest.Refused(t, device, "journal device")
}

// debugfsFeatures sets features; debugfs prints them all.
func debugfsFeatures(t *testing.T, img string, names string) {
	t.Helper()
	if out := volumetest.Tool(t, "debugfs", "-w", "-R", "feature "+names, img); !strings.Contains(out, names) {
		t.Fatalf("features are %s", out)
	}
}
