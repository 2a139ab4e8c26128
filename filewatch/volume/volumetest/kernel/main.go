//go:build linux

// Command kernel works on a mounted tree, to make the images and listings that
// readers are compared with, those in testdata and those of a running guest:
//
//	kernel storm DIR    makes, changes and removes files, with fsync now and then
//	kernel busy DIR     changes everything without end, beside others that do so
//	kernel deep DIR     makes what needs the deepest structures
//	kernel list DIR     lists everything as the kernel shows it
package main

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/zeebo/blake3"
	"golang.org/x/sys/unix"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
)

func main() {
	log.SetFlags(0)
	if len(os.Args) != 3 {
		log.Fatal("usage: kernel storm|busy|deep|list DIR")
	}
	var err error
	switch os.Args[1] {
	case "storm":
		err = storm(os.Args[2])
	case "busy":
		err = busy(os.Args[2])
	case "deep":
		err = deep(os.Args[2])
	case "list":
		err = list(os.Args[2])
	}
	if err != nil {
		log.Fatal(err)
	}
}

// list writes one line for each name.
func list(root string) error {
	var out []string
	err := filepath.Walk(root, func(p string, _ os.FileInfo, err error) error {
		rel := strings.TrimPrefix(strings.TrimPrefix(p, root), "/")
		if err != nil || rel == "" || rel == "lost+found" {
			return err
		}
		line, err := describe(p, rel)
		out = append(out, line)
		return err
	})
	slices.Sort(out)
	for _, l := range out {
		fmt.Println(l)
	}
	return err
}

func describe(p, rel string) (string, error) {
	var st unix.Stat_t
	if err := unix.Lstat(p, &st); err != nil {
		return "", err
	}
	o := &filewatch.Object{
		Type: filewatch.TypeOf(st.Mode), Mode: uint16(st.Mode & 0o7777), UID: st.Uid, GID: st.Gid,
		Nlink: uint32(st.Nlink), Size: st.Size, Mtime: time.Unix(st.Mtim.Unix()),
	}
	sum := ""
	var err error
	switch o.Type {
	case filewatch.TypeSymlink:
		o.Link, err = os.Readlink(p)
	case filewatch.TypeChar, filewatch.TypeBlock:
		o.Major, o.Minor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
	case filewatch.TypeFile:
		h := blake3.New()
		var f *os.File
		if f, err = os.Open(p); err == nil {
			_, err = io.Copy(h, f)
			f.Close()
			sum = hex.EncodeToString(h.Sum(nil))
		}
	}
	if err == nil {
		o.Xattrs, err = xattrs(p)
	}
	return volumetest.Line(rel, o, sum), err
}

func xattrs(p string) ([]filewatch.Xattr, error) {
	b := make([]byte, 64<<10)
	n, err := unix.Llistxattr(p, b)
	if err != nil {
		return nil, err
	}
	var out []filewatch.Xattr
	for name := range bytes.SplitSeq(bytes.TrimSuffix(b[:n], []byte{0}), []byte{0}) {
		if len(name) == 0 {
			continue
		}
		v := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(p, string(name), v)
		if err != nil {
			return nil, err
		}
		out = append(out, filewatch.Xattr{Name: string(name), Value: v[:n]})
	}
	slices.SortFunc(out, func(a, b filewatch.Xattr) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}
