//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// deep makes what needs the deepest structures: a file and an attribute set in
// trees of more than one level, values in blocks of their own, a directory with
// an index of its index, shared and unwritten extents.
func deep(root string) error {
	s := &steps{root: root}
	for i := range 3000 {
		s.write(s.path("pieces"), int64(i)*3<<10, fill(fmt.Sprint("piece", i), 1024))
	}
	s.do("mkdir", func() error { return os.Mkdir(s.path("many"), 0o755) })
	for i := range 1600 {
		s.write(s.path("many/a-name-that-takes-some-room-in-its-block-%d", i), 0, fill(fmt.Sprint(i), i%90))
	}
	for i := range 400 {
		s.do("setxattr", func() error {
			return unix.Setxattr(s.path("many"), fmt.Sprintf("user.attribute-number-%d", i), fill(fmt.Sprint("value", i), 180), 0)
		})
	}
	for i, size := range []int{1000, 5000, 40000, 65536} {
		s.do("setxattr", func() error {
			return unix.Setxattr(s.path("pieces"), fmt.Sprintf("user.large-%d", i), fill(fmt.Sprint("large", i), size), 0)
		})
	}
	s.do("clone", func() error { return clone(s.path("pieces"), s.path("shared")) })
	s.write(s.path("shared"), 4096, fill("own", 9000))
	s.do("preallocate", func() error {
		f, err := os.OpenFile(s.path("prepared"), os.O_CREATE|os.O_RDWR, 0o640)
		if err != nil {
			return err
		}
		err = unix.Fallocate(int(f.Fd()), 0, 0, 1<<20)
		_, werr := f.WriteAt(fill("written", 5000), 300_000)
		return errors.Join(err, werr, f.Close())
	})
	for i := 0; i < 1600; i += 2 { // what is left of an inode's chunk
		s.do("unlink", func() error { return os.Remove(s.path("many/a-name-that-takes-some-room-in-its-block-%d", i)) })
	}
	return s.err
}

// clone shares the extents of a file with another one where the file system can.
func clone(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.Create(to)
	if err != nil {
		return err
	}
	err = unix.IoctlFileClone(int(dst.Fd()), int(src.Fd()))
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = nil
	}
	return errors.Join(err, dst.Close())
}
