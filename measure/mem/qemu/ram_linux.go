package qemu

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// of says whether the mapping is of this file.
func (m mapping) of(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Ino == m.inode && stat.Dev == m.device
}

// touchedBlock is how exactly touched memory is told, in bytes. Where data ends is
// not asked (lseek(2), SEEK_HOLE): the kernel looks at each page up to there, which
// took it 10 ms for each gigabyte.
const touchedBlock = 2 << 20

// touched adds the parts of a shared file that may hold data (SEEK_DATA): from the
// first data in a block to the end of the block.
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
		if data < at {
			return nil, fmt.Errorf("data of RAM file at %#x precedes %#x", data, at)
		}
		at = min(data&^(touchedBlock-1)+touchedBlock, end)
		start := p.Start + mem.Phys(data-p.offset)
		if n := len(out); n > 0 && out[n-1].End() == start {
			out[n-1].Size += uint64(at - data)
		} else {
			out = append(out, mem.Extent{Start: start, Size: uint64(at - data)})
		}
	}
	return out, nil
}

// memoryFile makes a file that only memory holds.
func memoryFile(name string) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}
