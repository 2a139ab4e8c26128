//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// steps runs until the first error.
type steps struct {
	root string
	err  error
}

func (s *steps) do(what string, fn func() error) {
	if s.err == nil {
		if err := fn(); err != nil {
			s.err = fmt.Errorf("%s: %w", what, err)
		}
	}
}

func (s *steps) path(format string, args ...any) string {
	return filepath.Join(s.root, fmt.Sprintf(format, args...))
}

// fill is content that compresses well and differs from file to file.
func fill(tag string, n int) []byte {
	return bytes.Repeat([]byte(tag+"\n"), n/(len(tag)+1)+1)[:n]
}

func (s *steps) write(p string, off int64, b []byte) {
	s.do("write", func() error {
		f, err := os.OpenFile(p, os.O_CREATE|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		_, err = f.WriteAt(b, off)
		return errors.Join(err, f.Close())
	})
}

func (s *steps) sync(p string) {
	s.do("fsync", func() error {
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
}

// storm leaves a file system whose journal holds every kind of change. It is to
// be copied while still mounted.
func storm(root string) error {
	s := &steps{root: root}
	s.do("mkdir", func() error { return errors.Join(os.Mkdir(s.path("old"), 0o755), os.Mkdir(s.path("new"), 0o755)) })
	for i := range 120 {
		s.write(s.path("old/file-number-%03d", i), 0, fill(fmt.Sprint("old", i), i*37))
	}
	s.sync(s.path("old/file-number-000"))
	s.sync(s.path("old"))
	for i := range 100 {
		s.write(s.path("new/f%d", i), 0, fill(fmt.Sprint("new", i), i*211))
		if i%10 == 0 {
			s.sync(s.path("new/f%d", i))
		}
	}
	for i := range 30 {
		s.do("unlink", func() error { return os.Remove(s.path("old/file-number-%03d", i)) })
		s.do("rename", func() error { return os.Rename(s.path("old/file-number-%03d", i+30), s.path("new/moved%d", i)) })
		s.do("link", func() error { return os.Link(s.path("old/file-number-%03d", i+60), s.path("new/link%d", i)) })
	}
	s.sync(s.path("new/f1"))
	for i := range 20 {
		p := s.path("new/f%d", i)
		s.write(p, int64(i)*40000, fill(fmt.Sprint("more", i), 9000))
		s.do("chmod", func() error { return os.Chmod(p, os.FileMode(0o600+i)) })
		s.do("chown", func() error { return os.Chown(p, i, 70000+i) })
		s.sync(p)
	}
	for i := range 10 {
		s.do("truncate", func() error { return os.Truncate(s.path("new/f%d", 50+i), int64(i)*100) })
		s.sync(s.path("new/f%d", 50+i))
	}
	s.special()
	return s.err
}

// special makes what fast commits leave to full ones, unless FAST is set.
func (s *steps) special() {
	if os.Getenv("FAST") != "" {
		return
	}
	for i := range 20 {
		s.do("setxattr", func() error {
			return unix.Setxattr(s.path("new/f%d", 20+i), "user.name", fill("value", i*40), 0)
		})
	}
	s.do("symlink", func() error { return os.Symlink(string(bytes.Repeat([]byte("target/"), 80)), s.path("new/symlink")) })
	s.do("mknod", func() error { return unix.Mknod(s.path("new/null"), unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))) })
	s.do("mkdir", func() error { return os.MkdirAll(s.path("new/deep/er"), 0o750) })
	for i := range 300 { // a file in many pieces
		s.write(s.path("new/pieces"), int64(i)*3*8192, fill(fmt.Sprint(i), 4096))
	}
	s.sync(s.path("new/pieces"))
	s.do("rmdir", func() error { return os.Remove(s.path("new/deep/er")) })
	s.sync(s.path("new"))
}
