package disk

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// imageOf opens the image of a disk as the QEMU of a process has it open; nil where
// the image's bytes are not the disk's, where QEMU does not share the page cache, or
// where any of that is not certain.
//
// A raw disk that is a part of its file has another size than that, and one with
// something else between disk and file is named by QEMU as "json:...".
func imageOf(pid int, b Block) *os.File {
	if b.Format != "raw" || b.ReadOnly {
		return nil
	}
	path := b.File
	if !filepath.IsAbs(path) {
		path = fmt.Sprintf("/proc/%d/cwd/%s", pid, path)
	}
	named, err := os.Stat(path)
	if err != nil || !named.Mode().IsRegular() || named.Size() != b.Size {
		return nil
	}
	dir := fmt.Sprintf("/proc/%d/", pid)
	entries, err := os.ReadDir(dir + "fd")
	if err != nil {
		return nil
	}
	found := ""
	for _, e := range entries {
		open, err := os.Stat(dir + "fd/" + e.Name())
		if err != nil || !os.SameFile(open, named) {
			continue
		}
		if flags, err := openFlags(dir + "fdinfo/" + e.Name()); err != nil || flags&unix.O_DIRECT != 0 {
			return nil
		}
		found = dir + "fd/" + e.Name()
	}
	if found == "" {
		return nil
	}
	f, err := os.OpenFile(found, os.O_RDONLY|unix.O_NONBLOCK, 0) // of a pipe nobody waits
	if err != nil {
		return nil
	}
	if now, err := f.Stat(); err != nil || !os.SameFile(now, named) {
		f.Close()
		return nil
	}
	return f
}

// openFlags are the flags a file was opened with (proc(5), /proc/PID/fdinfo/FD:
// "flags:" in octal).
func openFlags(path string) (int64, error) {
	info, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(info) {
		if flags, ok := bytes.CutPrefix(line, []byte("flags:")); ok {
			return strconv.ParseInt(string(bytes.TrimSpace(flags)), 8, 64)
		}
	}
	return 0, fmt.Errorf("%s has no flags", path)
}

// readInMemory fills b from a file where all of it is in the page cache
// (preadv2(2), RWF_NOWAIT).
func readInMemory(f *os.File, b []byte, off int64) bool {
	n, err := unix.Preadv2(int(f.Fd()), [][]byte{b}, off, unix.RWF_NOWAIT)
	return err == nil && n == len(b)
}
