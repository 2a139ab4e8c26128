//go:build bench

package main

import (
	"cmp"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/disk/disktest"
	"github.com/plumbline-sec/plumbline/filewatch/volume"
)

// TestBenchFilesIncremental compares scans of a QEMU's disk that build on the last
// one with full scans of the same disk. QEMU does not run its processor; it is told
// to write what a guest would write that overwrites one file in a hundred in place, of small ones and large ones alike.
func TestBenchFilesIncremental(t *testing.T) {
	_, image := benchTree(t)
	dir := benchScratch(t)
	plumbline := benchProgram(t, dir)
	live, other := filepath.Join(dir, "live"), filepath.Join(dir, "other")
	for _, path := range []string{live, other} {
		mustRun(t, "cp", "--sparse=always", image, path)
	}
	files, share := overwriteSome(t, other, 100)
	there, back := disktest.Difference(t, image, other), disktest.Difference(t, other, image)
	m := disktest.Start(t, "raw:"+live)
	run := func(args ...string) measured {
		return timed(t, 7, plumbline, append([]string{"baseline"}, append(args, "--vm", m.QMP, "-f", dir+"/b")...)...)
	}
	run("create", "--incremental")
	full := &contender{run: func() measured { return run("check") }}
	same := &contender{run: func() measured { return run("check", "--incremental") }}
	turn := 0
	changed := &contender{run: func() measured {
		m.Apply(t, 0, [][]disktest.Piece{there, back}[turn%2])
		turn++
		return run("check", "--incremental")
	}}
	inTurn(4, func() {}, full, changed, same)
	fmt.Printf("%d of %d files with %.2f %% of the bytes overwritten each time, %d pieces of the disk\n", files, benchFiles, 100*share, len(there))
	line("files.incremental.share", 100*share, "% of the bytes are in the files that changed")
	line("files.incremental", changed.best.wall.Seconds()/full.best.wall.Seconds(), "x vs full")
	line("files.incremental.cpu", changed.best.cpu.Seconds()/full.best.cpu.Seconds(), "x vs full")
	line("files.incremental.floor", share+same.best.wall.Seconds()/full.best.wall.Seconds(), "x vs full: the share of the bytes that changed, and a scan without any")
	line("files.unchanged", same.best.wall.Seconds()*1000, "ms")
}

// TestBenchFilesIncrementalMillion measures what scans that build on each other
// need at a million files: memory, and time when nothing changed.
func TestBenchFilesIncrementalMillion(t *testing.T) {
	const files = 1_000_000
	image := benchEmpty(t, files)
	dir := benchScratch(t)
	plumbline := benchProgram(t, dir)
	live, other := filepath.Join(dir, "live"), filepath.Join(dir, "other")
	for _, path := range []string{live, other} {
		mustRun(t, "cp", "--sparse=always", image, path)
	}
	benchModes(t, other, files)
	m := disktest.Start(t, "raw:"+live)
	peak := int64(0)
	contend := func(args ...string) *contender {
		return &contender{run: func() measured {
			took := timed(t, 7, plumbline, append([]string{"baseline"}, append(args, "--vm", m.QMP, "-f", dir+"/b")...)...)
			peak = max(peak, took.peak)
			return took
		}}
	}
	create, full := contend("create", "--incremental"), contend("check", "--incremental", "--full-every", "1")
	same, changed := contend("check", "--incremental"), contend("check", "--incremental")
	inTurn(1, func() {}, create, full)
	inTurn(3, func() {}, same)
	pieces := 0
	for i, images := range [][2]string{{live + ".0", other}, {other, live + ".0"}} {
		if i == 0 {
			mustRun(t, "cp", "--sparse=always", image, images[0])
		}
		pieces = m.BecomeFile(t, 0, images[0], images[1])
		changed.round(func() {})
	}
	fmt.Printf("one file in a hundred of a million changed each time, %d pieces of the disk\n", pieces)
	line("files.unchanged.million", same.best.wall.Seconds()*1000, "ms")
	line("files.incremental.million", changed.best.wall.Seconds()/full.best.wall.Seconds(), "x vs full")
	line("files.incremental.million.cpu", changed.best.cpu.Seconds()/full.best.cpu.Seconds(), "x vs full")
	line("files.incremental.memory", float64(peak)/(1<<20), "MiB")
	if most := int64(128 << 20); peak > most {
		t.Errorf("%d MiB at a million files, want under 128", peak>>20)
	}
}

// benchModes gives one file in a hundred of benchEmpty's another mode, without a
// mount: the files of every hundredth directory.
func benchModes(t *testing.T, image string, files int) {
	t.Helper()
	var commands strings.Builder
	for i := range files {
		if i/500%100 == 7 {
			fmt.Fprintf(&commands, "sif /usr/share/directory%d/some-file-name-%d.txt mode 0100600\n", i/500, i%500)
		}
	}
	debugfs(t, image, commands.String())
}

// benchScratch is a directory on the disk that holds the corpora.
func benchScratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(benchCache(t), "incremental-*")
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// overwriteSome overwrites the content of one file in every in place and gives it
// new times, without a mount. The files are every so-manieth by size, so that they
// hold about as much of the content as they are of the files: few files hold most
// bytes, and a sample that chance draws holds what it happens to draw of those.
// share is how much of all content that is.
func overwriteSome(t *testing.T, image string, every int) (files int, share float64) {
	t.Helper()
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	must(t, err)
	d, err := volume.Open(f, size)
	must(t, err)
	type file struct {
		inode   uint64
		size    int64
		extents []filewatch.Extent
	}
	var all []file
	must(t, d.Volumes[0].Objects(t.Context(), func(o *filewatch.Object, c filewatch.Content, _ error) error {
		if o.Type == filewatch.TypeFile {
			all = append(all, file{o.Inode, o.Size, slices.Clone(c.Extents)})
		}
		return nil
	}))
	slices.SortFunc(all, func(a, b file) int { return cmp.Or(cmp.Compare(a.size, b.size), cmp.Compare(a.inode, b.inode)) })
	random := rand.NewChaCha8([32]byte{2})
	var commands strings.Builder
	var bytes, total int64
	for i, file := range all {
		if total += file.size; i%every != every/2 {
			continue
		}
		files++
		bytes += file.size
		fmt.Fprintf(&commands, "sif <%d> mtime @1900000000\nsif <%d> ctime @1900000000\n", file.inode, file.inode)
		for _, e := range file.extents {
			content := make([]byte, min(e.Length, file.size-e.Logical))
			random.Read(content)
			_, err := f.WriteAt(content, e.Physical)
			must(t, err)
		}
	}
	debugfs(t, image, commands.String())
	return files, float64(bytes) / float64(total)
}

func debugfs(t *testing.T, image, commands string) {
	t.Helper()
	cmd := exec.Command("debugfs", "-w", "-f", "-", image)
	cmd.Stdin = strings.NewReader(commands)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("debugfs: %v\n%s", err, out)
	}
}
