// Package volumetest is the conformance suite of file-system readers, run by
// each of them, and the images it needs.
//
// What an image should read as is a [Tree] written down here; the images are
// made by the families' own tools (mke2fs, debugfs, mkfs.xfs, mtools), which
// must be installed: a missing tool fails the test.
package volumetest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Tree is what a volume should hold, without its root.
type Tree []Entry

// Entry is one object under one of its names.
type Entry struct {
	Path     string
	Type     filewatch.Type
	Mode     uint16
	UID, GID uint32
	Mtime    time.Time
	Content  []byte
	// HoleAt and Hole insert that many zeros into Content at that offset, as a
	// hole of the file.
	HoleAt, Hole int64
	Link         string
	Major, Minor uint32
	Xattrs       map[string]string
	// Same is another path of the same object, which is then taken from there.
	Same string
}

// Size is the length of the content, hole included.
func (e *Entry) Size() int64 { return int64(len(e.Content)) + e.Hole }

// Reader reads the content as it should read.
func (e *Entry) Reader() *bytes.Reader {
	b := append([]byte(nil), e.Content[:e.HoleAt]...)
	b = append(b, make([]byte, e.Hole)...)
	return bytes.NewReader(append(b, e.Content[e.HoleAt:]...))
}

// epoch is the time of everything that has no other.
var epoch = time.Date(2024, 2, 29, 12, 34, 56, 0, time.UTC)

// ACL is a value of system.posix_acl_access in the form of getxattr(2): tag,
// permissions and identifier of each entry.
func ACL(entries ...[3]uint32) string {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(e[1]))
		b = binary.LittleEndian.AppendUint32(b, e[2])
	}
	return string(b)
}

// noise is content that is the same in every run and does not compress.
func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	x := uint64(seed)*0x9E3779B97F4A7C15 + 1
	for i := range b {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		b[i] = byte(x)
	}
	return b
}

// Plain is what every family can hold: files of many sizes, directories deep
// and full.
func Plain() Tree {
	t := Tree{
		{Path: "empty-dir", Type: filewatch.TypeDir, Mode: 0o755},
		{Path: "etc", Type: filewatch.TypeDir, Mode: 0o755},
		{Path: "etc/empty", Type: filewatch.TypeFile, Mode: 0o644},
		{Path: "etc/hello", Type: filewatch.TypeFile, Mode: 0o644, Content: []byte("hello\n")},
		{Path: "big", Type: filewatch.TypeFile, Mode: 0o755, Content: noise(1, 700_001)},
		{Path: "many", Type: filewatch.TypeDir, Mode: 0o755},
		{Path: "a", Type: filewatch.TypeDir, Mode: 0o755},
		{Path: "a/b", Type: filewatch.TypeDir, Mode: 0o755},
		{Path: "a/b/c", Type: filewatch.TypeDir, Mode: 0o755},
		{Path: "a/b/c/d", Type: filewatch.TypeFile, Mode: 0o644, Content: []byte("deep")},
		{Path: "long", Type: filewatch.TypeDir, Mode: 0o755},
		{Path: "long/" + strings.Repeat("n", 200), Type: filewatch.TypeFile, Mode: 0o644, Content: []byte("l")},
		{Path: "long/ünïcode ☃.txt", Type: filewatch.TypeFile, Mode: 0o644, Content: []byte("u")},
	}
	for _, n := range []int{1, 59, 60, 61, 156, 160, 511, 512, 4095, 4096, 4097, 65536} {
		t = append(t, Entry{Path: fmt.Sprintf("etc/size-%d", n), Type: filewatch.TypeFile, Mode: 0o640, Content: noise(byte(n), n)})
	}
	for i := range 300 {
		t = append(t, Entry{Path: fmt.Sprintf("many/a-file-with-a-name-%03d", i), Type: filewatch.TypeFile, Mode: 0o644, Content: noise(byte(i), i%7)})
	}
	return t
}

// Small is the tree without what takes long to read: full directories, large
// contents.
func (t Tree) Small() Tree {
	return slices.DeleteFunc(slices.Clone(t), func(e Entry) bool {
		full := strings.HasPrefix(e.Path, "many/") && !strings.HasSuffix(e.Path, "1")
		return full || e.Size() > 8<<10 || e.Same == "big"
	})
}

// Unix is [Plain] and what Unix adds: owners, links, devices, holes, odd names.
func Unix() Tree {
	t := append(Plain(), Tree{
		{Path: "setuid", Type: filewatch.TypeFile, Mode: 0o4755, Content: noise(2, 5000)},
		{Path: "owned", Type: filewatch.TypeFile, Mode: 0o600, UID: 70001, GID: 80002, Content: []byte("owned")},
		{Path: "tmp", Type: filewatch.TypeDir, Mode: 0o1777},
		{Path: "group", Type: filewatch.TypeDir, Mode: 0o2775, GID: 50},
		{Path: "big-2", Same: "big"},
		{Path: "etc/big-3", Same: "big"},
		{Path: "link", Type: filewatch.TypeSymlink, Mode: 0o777, Link: "etc/hello"},
		{Path: "link-59", Type: filewatch.TypeSymlink, Mode: 0o777, Link: strings.Repeat("x", 59)},
		{Path: "link-60", Type: filewatch.TypeSymlink, Mode: 0o777, Link: strings.Repeat("x", 60)},
		{Path: "link-500", Type: filewatch.TypeSymlink, Mode: 0o777, Link: strings.Repeat("long/", 100)},
		{Path: "dir-link", Type: filewatch.TypeSymlink, Mode: 0o777, Link: "/a/b"},
		{Path: "loop", Type: filewatch.TypeSymlink, Mode: 0o777, Link: "loop"},
		{Path: "null", Type: filewatch.TypeChar, Mode: 0o666, Major: 1, Minor: 3},
		{Path: "sda1", Type: filewatch.TypeBlock, Mode: 0o660, GID: 6, Major: 8, Minor: 1},
		{Path: "wide-dev", Type: filewatch.TypeChar, Mode: 0o600, Major: 300, Minor: 60000},
		{Path: "fifo", Type: filewatch.TypeFIFO, Mode: 0o644},
		{Path: "hole", Type: filewatch.TypeFile, Mode: 0o644, Content: noise(3, 9000), HoleAt: 4096, Hole: 3 << 20},
		{Path: "all-hole", Type: filewatch.TypeFile, Mode: 0o644, Hole: 50_000},
		{Path: "old", Type: filewatch.TypeFile, Mode: 0o644, Mtime: time.Date(1965, 1, 2, 3, 4, 5, 0, time.UTC)},
		{Path: "odd\nname\t\\", Type: filewatch.TypeFile, Mode: 0o644},
		{Path: "\xff\xfe", Type: filewatch.TypeFile, Mode: 0o644, Content: []byte("not UTF-8")},
	}...)
	return t
}

// normal fills in what an entry leaves out.
func (t Tree) normal() map[string]Entry {
	out := map[string]Entry{}
	for _, e := range t {
		if e.Mtime.IsZero() {
			e.Mtime = epoch
		}
		out[e.Path] = e
	}
	for p, e := range out {
		if e.Same != "" {
			same := out[e.Same]
			same.Path = p
			out[p] = same
		}
	}
	return out
}

// Write makes the tree under dir as far as an ordinary user can: names,
// contents, links, permissions without setuid, times in whole seconds. Devices
// are left out.
func (t Tree) Write(tb testing.TB, dir string) {
	tb.Helper()
	for _, e := range t {
		if err := e.write(dir); err != nil {
			tb.Fatalf("write tree: %v", err)
		}
	}
	for i := len(t) - 1; i >= 0; i-- {
		e := t[i]
		if e.Type == filewatch.TypeFile || e.Type == filewatch.TypeDir {
			when := e.Mtime
			if when.IsZero() {
				when = epoch
			}
			if err := os.Chtimes(filepath.Join(dir, e.Path), when, when); err != nil {
				tb.Fatalf("write tree: %v", err)
			}
		}
	}
}

func (e *Entry) write(dir string) error {
	p := filepath.Join(dir, e.Path)
	if e.Same != "" {
		return os.Link(filepath.Join(dir, e.Same), p)
	}
	switch e.Type {
	case filewatch.TypeDir:
		return os.Mkdir(p, 0o755)
	case filewatch.TypeSymlink:
		return os.Symlink(e.Link, p)
	case filewatch.TypeFile:
		f, err := os.OpenFile(p, os.O_CREATE|os.O_WRONLY, os.FileMode(e.Mode&0o777|0o200))
		if err != nil {
			return err
		}
		defer f.Close()
		if _, err := f.WriteAt(e.Content[:e.HoleAt], 0); err != nil {
			return err
		}
		if _, err := f.WriteAt(e.Content[e.HoleAt:], e.HoleAt+e.Hole); err != nil {
			return err
		}
		return f.Truncate(e.Size())
	}
	return nil
}

// Names are small files of the given names.
func Names(names ...string) Tree {
	var t Tree
	for _, n := range names {
		t = append(t, Entry{Path: n, Type: filewatch.TypeFile, Mode: 0o644, Content: []byte(n)})
	}
	return t
}
