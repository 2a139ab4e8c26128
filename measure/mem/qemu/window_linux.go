package qemu

import (
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// openWindow maps size bytes of a file, or returns nil where that is not to be
// had or not safe: only tmpfs (memfds and /dev/shm) promises that a page which
// holds data can be read without more memory. On hugetlbfs, for one, a fault
// takes a huge page or ends in SIGBUS.
func openWindow(file *os.File, offset int64, size uint64) *window {
	var fs unix.Statfs_t
	var info unix.Stat_t
	fd := int(file.Fd())
	if unix.Fstatfs(fd, &fs) != nil || fs.Type != unix.TMPFS_MAGIC || unix.Fstat(fd, &info) != nil {
		return nil
	}
	if offset%mem.PageSize != 0 || size == 0 || size%mem.PageSize != 0 || int64(size) < 0 || info.Size-offset < int64(size) {
		return nil
	}
	data, err := unix.Mmap(fd, offset, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil
	}
	return &window{file: file, offset: offset, data: data, known: make([]atomic.Uint64, (size/mem.PageSize+63)/64)}
}

func (w *window) close() error {
	if w == nil {
		return nil
	}
	return unix.Munmap(w.data)
}

// held asks the file whether it holds a page (lseek(2), SEEK_DATA). Where the
// data ends is not asked: the kernel would look at each page up to there.
func (w *window) held(page uint64) bool {
	at := w.offset + int64(page*mem.PageSize)
	data, err := unix.Seek(int(w.file.Fd()), at, unix.SEEK_DATA)
	return err == nil && data == at
}
