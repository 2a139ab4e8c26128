package ext4_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch/volume/ext4"
	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
)

// fastArea is an image with fast commits and what their area holds.
func fastArea(tb testing.TB) (*ext4.FastArea, []byte) {
	tb.Helper()
	f, size := volumetest.File(tb, volumetest.Unpack(tb, "testdata/fast.img.zst"))
	a, content, err := ext4.OpenFastArea(f, size)
	if err != nil {
		tb.Fatal(err)
	}
	return a, content
}

// The area of a real image replays to the records that opening it does; sealed
// again, those of earlier transactions that stand behind them do too. So the
// fuzzer's seeds reach what they are about.
func TestFastArea(t *testing.T) {
	a, content := fastArea(t)
	records, sound, broken := a.Replay(content)
	said := fmt.Sprintf(", %d fast-commit records", records)
	if opened := volumetest.One(t, volumetest.Unpack(t, "testdata/fast.img.zst")); !strings.HasSuffix(opened.Replayed, said) || sound < 10 || broken != nil {
		t.Errorf("%s with %d sound inodes, %v; opening says %s", said, sound, broken, opened.Replayed)
	}
	sealed := bytes.Clone(content)
	a.Seal(sealed)
	if more, _, broken := a.Replay(sealed); more <= records || broken != nil {
		t.Errorf("%d records sealed, %d as they are, %v", more, records, broken)
	}
	content[40] ^= 1 // in the first commit: none is taken
	if n, _, _ := a.Replay(content); n != 0 {
		t.Errorf("a damaged area still has %d records", n)
	}
}

// FuzzFastCommits starts from the fast commits of a real image, with sequences
// and checksums put right: whatever the records say, what they change is read or
// an error.
func FuzzFastCommits(f *testing.F) {
	a, content := fastArea(f)
	end := len(bytes.TrimRight(content, "\x00"))
	for n := 1024; n <= end+1024 && n <= len(content); n *= 2 {
		f.Add(content[:n])
	}
	// A head, blocks 5000+0 at 0 of inode 144, a tail: a range of no blocks.
	f.Add([]byte("\x09\x00\x08\x0000000000" + "\x01\x00\x10\x00\x90\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x88\x13\x00\x00" + "\x08\x00\x08\x0000000000"))
	f.Fuzz(func(t *testing.T, area []byte) {
		area = bytes.Clone(area)
		a.Seal(area)
		if _, _, broken := a.Replay(area); broken != nil {
			t.Fatal(broken)
		}
	})
}
