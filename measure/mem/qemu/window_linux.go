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
	return &window{file: file, offset: offset, data: data, known: make([]atomic.Uint64, (size+blockSize-1)/blockSize)}
}

func (w *window) close() error {
	if w == nil {
		return nil
	}
	return unix.Munmap(w.data)
}

// held asks the file which pages of a block it holds (lseek(2), SEEK_DATA).
func (w *window) held(block uint64) (pages uint64) {
	from := w.offset + int64(block*blockSize)
	end := min(from+blockSize, w.offset+int64(len(w.data)))
	for at := from; at < end; {
		data, hole, err := nextData(int(w.file.Fd()), at, end)
		if err != nil || data == end {
			break
		}
		first, last := (data-from)/mem.PageSize, (hole-from)/mem.PageSize // holes start at pages
		pages |= (1<<last - 1) &^ (1<<first - 1)
		at = hole
	}
	return pages
}
