package qemu

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Touched implements [mem.Toucher]: the parts of shared files that hold data
// (lseek(2), SEEK_DATA). Private RAM counts as touched throughout.
func (r *RAM) Touched() ([]mem.Extent, error) {
	var out []mem.Extent
	for _, p := range r.parts {
		if !p.sparse {
			out = append(out, p.Extent)
			continue
		}
		var err error
		if out, err = p.touched(out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

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
