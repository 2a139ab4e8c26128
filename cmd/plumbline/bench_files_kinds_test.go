//go:build bench

package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch/disk/disktest"
)

// kindFiles is how many empty files the volumes of other kinds have, 500 in each
// directory.
const kindFiles = 200_000

// TestBenchFilesIncrementalKinds is TestBenchFilesIncrementalMillion for XFS and FAT
// with a fifth of the files: one in a hundred gets another mode.
func TestBenchFilesIncrementalKinds(t *testing.T) {
	for _, kind := range []struct {
		name          string
		make, another func(t *testing.T, image string)
	}{
		{"xfs", makeXFS, xfsModes},
		{"fat", makeFAT, fatModes},
	} {
		image := filepath.Join(benchCache(t), fmt.Sprintf("%s-%d.img", kind.name, kindFiles))
		if _, err := os.Stat(image); err != nil {
			fmt.Printf("making the image %s: once\n", filepath.Base(image))
			kind.make(t, image+".part")
			must(t, os.Rename(image+".part", image))
		}
		benchKind(t, kind.name, image, kind.another)
	}
}

func benchKind(t *testing.T, name, image string, another func(t *testing.T, image string)) {
	t.Helper()
	dir := benchScratch(t)
	plumbline := benchProgram(t, dir)
	live, other := filepath.Join(dir, "live"), filepath.Join(dir, "other")
	for _, path := range []string{live, other} {
		mustRun(t, "cp", "--sparse=always", image, path)
	}
	another(t, other)
	m := disktest.Start(t, "raw:"+live)
	contend := func(args ...string) *contender {
		return &contender{run: func() measured {
			return timed(t, 7, plumbline, append([]string{"baseline"}, append(args, "--vm", m.QMP, "-f", dir+"/b")...)...)
		}}
	}
	contend("create", "--incremental").run()
	full, changed := contend("check"), contend("check", "--incremental")
	pieces := 0
	for round := range 4 {
		full.round(func() {})
		pieces = m.BecomeFile(t, 0, []string{image, other}[round%2], []string{other, image}[round%2])
		changed.round(func() {})
	}
	fmt.Printf("%s: one file in a hundred of %d changed each time, %d pieces of the disk\n", name, kindFiles, pieces)
	line("files.incremental."+name, changed.best.wall.Seconds()/full.best.wall.Seconds(), "x vs full")
	line("files.incremental."+name+".cpu", changed.best.cpu.Seconds()/full.best.cpu.Seconds(), "x vs full")
}

// makeXFS has mkfs.xfs make the files by a prototype (mkfs.xfs(8), -p).
func makeXFS(t *testing.T, image string) {
	t.Helper()
	var proto strings.Builder
	proto.WriteString("/\n0 0\nd--755 0 0\n")
	for i := range kindFiles {
		if i%500 == 0 {
			fmt.Fprintf(&proto, "directory%d d--755 0 0\n", i/500)
		}
		fmt.Fprintf(&proto, "some-file-name-%d.txt ---644 0 0 /dev/null\n", i%500)
		if i%500 == 499 {
			proto.WriteString("$\n")
		}
	}
	proto.WriteString("$\n")
	path := filepath.Join(t.TempDir(), "proto")
	must(t, os.WriteFile(path, []byte(proto.String()), 0o600))
	mustRun(t, "truncate", "-s", "1G", image)
	mustRun(t, "mkfs.xfs", "-q", "-f", "-p", path, image)
}

// xfsModes changes modes of the files of every hundredth directory by xfs_db.
func xfsModes(t *testing.T, image string) {
	t.Helper()
	var commands strings.Builder
	for i := range kindFiles {
		if i/500%100 == 7 {
			fmt.Fprintf(&commands, "path /directory%d/some-file-name-%d.txt\nwrite core.mode 0100600\n", i/500, i%500)
		}
	}
	cmd := exec.Command("xfs_db", "-x", image)
	cmd.Stdin = strings.NewReader(commands.String())
	if out, err := cmd.CombinedOutput(); err != nil || strings.Count(string(out), "core.mode = ") != kindFiles/100 {
		t.Fatalf("xfs_db: %v\n%s", err, out)
	}
}

// fatCluster is the bytes of a cluster of makeFAT's volume.
const fatCluster = 4096

// makeFAT writes the files into the empty FAT32 volume of mkfs.vfat, which mtools
// would take hours for. Structures: Microsoft FAT specification (2005), sections 3.1,
// 3.3, 6.
func makeFAT(t *testing.T, image string) {
	t.Helper()
	mustRun(t, "truncate", "-s", "1G", image)
	mustRun(t, "mkfs.vfat", "-F", "32", "-s", "8", "-i", "1234ABCD", image)
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	boot := make([]byte, 512)
	_, err = f.ReadAt(boot, 0)
	must(t, err)
	le := binary.LittleEndian
	start := int64(le.Uint16(boot[14:])) * 512 // BPB_RsvdSecCnt
	size := int64(le.Uint32(boot[36:])) * 512  // BPB_FATSz32
	data := start + int64(boot[16])*size       // BPB_NumFATs
	fat := make([]byte, size)
	_, err = f.ReadAt(fat, start)
	must(t, err)
	next := uint32(3) // 2 is the root's first
	put := func(first uint32, content []byte) {
		for at := first; ; at, next = next, next+1 {
			_, err := f.WriteAt(content[:min(fatCluster, len(content))], data+int64(at-2)*fatCluster)
			must(t, err)
			if content = content[min(fatCluster, len(content)):]; len(content) == 0 {
				le.PutUint32(fat[4*at:], 0x0fffffff)
				return
			}
			le.PutUint32(fat[4*at:], next)
		}
	}
	var root []byte
	for d := range kindFiles / 500 {
		first := next
		next++
		content := append(fatEntry(".", 0x10, first), fatEntry("..", 0x10, 0)...)
		for i := range 500 {
			content = append(content, fatEntry(fmt.Sprintf("F%07dTXT", i), 0x20, 0)...)
		}
		put(first, content)
		root = append(root, fatEntry(fmt.Sprintf("D%05d", d), 0x10, first)...)
	}
	put(2, root)
	for i := range int64(boot[16]) {
		_, err := f.WriteAt(fat, start+i*size)
		must(t, err)
	}
}

// fatEntry is a directory entry (section 6) of something empty, or of a directory.
func fatEntry(name string, attributes byte, cluster uint32) []byte {
	e := []byte(fmt.Sprintf("%-11s", name))
	e = append(e, make([]byte, 21)...)
	e[11] = attributes
	binary.LittleEndian.PutUint16(e[20:], uint16(cluster>>16))
	binary.LittleEndian.PutUint16(e[24:], 0x5000) // written in 2020
	binary.LittleEndian.PutUint16(e[26:], uint16(cluster))
	return e
}

// fatModes makes the files of every hundredth directory read-only.
func fatModes(t *testing.T, image string) {
	t.Helper()
	for d := 7; d < kindFiles/500; d += 100 {
		mustRun(t, "mattrib", "+r", "-i", image, fmt.Sprintf("::/D%05d/*", d))
	}
}
