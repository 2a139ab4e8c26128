package qemu

import (
	"errors"
	"fmt"
	"io/fs"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// of says whether the mapping is of this file.
func (m mapping) of(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Ino == m.inode && stat.Dev == m.device
}

// touched adds the parts of a shared file that hold data (lseek(2), SEEK_DATA).
func (p part) touched(out []mem.Extent) ([]mem.Extent, error) {
	end := p.offset + int64(p.Size)
	for at := p.offset; at < end; {
		data, hole, err := nextData(int(p.file.Fd()), at, end)
		if err != nil {
			return nil, err
		}
		if data == end {
			break
		}
		out = append(out, mem.Extent{Start: p.Start + mem.Phys(data-p.offset), Size: uint64(hole - data)})
		at = hole
	}
	return out, nil
}

// nextData returns where the next data in [at, end) of a file starts and stops,
// or end twice if there is none.
func nextData(fd int, at, end int64) (data, hole int64, err error) {
	data, err = unix.Seek(fd, at, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) || err == nil && data >= end {
		return end, end, nil
	}
	if err != nil {
		return 0, 0, fmt.Errorf("find data at %#x of RAM file: %w", at, err)
	}
	hole, err = unix.Seek(fd, data, unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, fmt.Errorf("find hole at %#x of RAM file: %w", data, err)
	}
	if hole = min(hole, end); hole <= data {
		return 0, 0, fmt.Errorf("hole of RAM file at %#x precedes its data at %#x", hole, data)
	}
	return data, hole, nil
}
