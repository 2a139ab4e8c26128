//go:build bench

package tap

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch/disk/disktest"
	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
)

// The disk that is watched has 60,000 files of 4 KiB, 600 in a directory.
const (
	benchDirs = 100
	benchEach = 600
)

// TestBenchTap is what a watch on the disk path costs: the first look, at all files;
// looks with nothing written; and how long after a write the event of one file comes,
// and the last event of all files in one directory of a hundred, which have new contents
// and times. Up to 10 ms between two looks and 5 until the test sees it are included.
func TestBenchTap(t *testing.T) {
	image, changed := benchImages(t)
	live := filepath.Join(t.TempDir(), "live")
	volumetest.Tool(t, "cp", "--sparse=always", image, live)
	m := disktest.Start(t, "raw:"+live)

	began := time.Now()
	w := watch(t, m.QMP)
	first := time.Since(began)
	fmt.Printf("bench tap.first %.2f s\n", first.Seconds())

	cpu, looks := processorTime(t), w.looks()
	time.Sleep(3 * time.Second)
	fmt.Printf("bench tap.idle %.0f us\n", float64((processorTime(t)-cpu).Microseconds())/float64(w.looks()-looks))

	forth, back := disktest.Difference(t, image, changed), disktest.Difference(t, changed, image)
	var one, hundredth []time.Duration
	for range 5 {
		for _, pieces := range [][]disktest.Piece{forth, back} {
			hundredth = append(hundredth, benchStep(t, w, m, pieces, benchEach))
		}
	}
	single := benchContent(forth)
	for i := range 20 {
		piece := disktest.Piece{Off: single.Off, Data: []byte(strings.Repeat(string(rune('a'+i)), 512))}
		one = append(one, benchStep(t, w, m, []disktest.Piece{piece}, 1))
	}
	fmt.Printf("bench tap.event %.1f ms\n", middle(one).Seconds()*1000)
	fmt.Printf("bench tap.events %.0f events/s\n", benchEach/middle(hundredth).Seconds())
	fmt.Printf("bench tap.changed %.4f x vs first\n", middle(hundredth).Seconds()/first.Seconds())
}

// benchImages are two states of the disk: in the second the files of one directory
// have other contents and times of modification.
func benchImages(t *testing.T) (image, changed string) {
	t.Helper()
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	for d := range benchDirs {
		path := filepath.Join(tree, fmt.Sprintf("directory%d", d))
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		for i := range benchEach {
			content := strings.Repeat(fmt.Sprintf("content of %d in %d. ", i, d), 512)[:4096]
			if err := os.WriteFile(filepath.Join(path, fmt.Sprintf("some-file-name-%d", i)), []byte(content), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	image, changed = filepath.Join(dir, "image"), filepath.Join(dir, "changed")
	volumetest.Tool(t, "mke2fs", "-q", "-F", "-t", "ext4", "-N", "80000", "-d", tree, image, "512M")
	volumetest.Tool(t, "cp", "--sparse=always", image, changed)
	var times []string
	for i := range benchEach {
		times = append(times, fmt.Sprintf("set_inode_field /directory%d/some-file-name-%d mtime @%d", benchDirs/2, i, 1e9+i))
	}
	(&volumetest.Changes{Image: changed}).Debugfs(t, times...)
	b, err := os.ReadFile(changed)
	if err != nil {
		t.Fatal(err)
	}
	for i := range benchEach {
		at := bytes.Index(b, fmt.Appendf(nil, "content of %d in %d. ", i, benchDirs/2))
		if at < 0 {
			t.Fatalf("the content of file %d is not on the disk", i)
		}
		copy(b[at:], benchMark)
	}
	if err := os.WriteFile(changed, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return image, changed
}

// benchMark is what a changed content starts with.
const benchMark = "CONTENT"

// benchContent is the start of a changed content.
func benchContent(pieces []disktest.Piece) disktest.Piece {
	i := slices.IndexFunc(pieces, func(p disktest.Piece) bool { return strings.HasPrefix(string(p.Data), benchMark) })
	if i < 0 {
		panic("no content among what differs")
	}
	return pieces[i]
}

// benchStep writes pieces and gives how long after that the last of one event a file
// came.
func benchStep(t *testing.T, w *watched, m *disktest.Machine, pieces []disktest.Piece, files int) time.Duration {
	t.Helper()
	from := len(w.words(0))
	w.turns.Mutex.Lock()
	m.Apply(t, 0, pieces)
	written := time.Now()
	w.turns.Mutex.Unlock()
	var took time.Duration
	w.wait("an event of each file", func() bool {
		took = time.Since(written)
		return len(w.events) >= from+files
	})
	if n := len(w.step(func() {})); n > 0 {
		t.Fatalf("%d events more than files", n)
	}
	return took
}

// looks is how many have come to their end.
func (w *watched) looks() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ended
}

func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var used syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &used); err != nil {
		t.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

func middle(of []time.Duration) time.Duration {
	slices.Sort(of)
	return of[len(of)/2]
}
