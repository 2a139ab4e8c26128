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
	fd := int(p.file.Fd())
	end := p.offset + int64(p.Size)
	for at := p.offset; at < end; {
		data, err := unix.Seek(fd, at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) || err == nil && data >= end {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("find data at %#x of RAM file: %w", at, err)
		}
		hole, err := unix.Seek(fd, data, unix.SEEK_HOLE)
		if err != nil {
			return nil, fmt.Errorf("find hole at %#x of RAM file: %w", data, err)
		}
		hole = min(hole, end)
		if hole <= data {
			return nil, fmt.Errorf("hole of RAM file at %#x precedes its data at %#x", hole, data)
		}
		out = append(out, mem.Extent{Start: p.Start + mem.Phys(data-p.offset), Size: uint64(hole - data)})
		at = hole
	}
	return out, nil
}
