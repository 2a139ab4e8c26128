// Package durable puts bytes on disk so that they are there after a crash: whole
// files that are replaced at once, and a spool of numbered records.
//
// Durable means that fsync has returned for the data and for the directory that
// names it; what a disk's own cache does with that is the disk's promise.
package durable

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// WriteFile replaces the file at path by data, or leaves the old one whole. It
// is durable when WriteFile returns.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	return Replace(path, perm, func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// ErrNotRegular: what is at a path is no file that can be replaced.
var ErrNotRegular = errors.New("not a regular file")

// Replace is WriteFile for content that is produced by write. An error of write
// leaves the old file whole. A device, a FIFO or a socket is [ErrNotRegular]: root,
// who names /dev/null as a place for what he does not want, would else have a file
// there.
func Replace(path string, perm fs.FileMode, write func(io.Writer) error) (err error) {
	if info, err := os.Lstat(path); err == nil && info.Mode()&(fs.ModeDevice|fs.ModeNamedPipe|fs.ModeSocket) != 0 {
		return fmt.Errorf("replace %s: %w", path, ErrNotRegular)
	}
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			tmp.Close()
			os.Remove(tmp.Name())
		}
	}()
	if err := tmp.Chmod(perm); err != nil {
		return err
	}
	if err := write(tmp); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", tmp.Name(), err)
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	return SyncDir(dir)
}

// SyncDir makes the names in a directory durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Lock takes f for this process, until f is closed or the process ends. The error
// is [ErrLocked] when another one has it.
func Lock(f *os.File) error { return lock(f) }
