package dump

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sort"
)

// source is the file of a dump, seen as its writer addressed it.
type source struct {
	r    io.ReaderAt
	size uint64
}

// A flattened file, for pipes, is a list of writes (makedumpfile, IMPLEMENTATION
// and makedumpfile.h, struct makedumpfile_header and makedumpfile_data_header;
// QEMU, dump/dump.c, write_start_flat_header). All integers are big-endian.
const (
	flatMagic  = "makedumpfile\x00\x00\x00\x00"
	flatHeader = 4096 // bytes before the first write
	flatRecord = 16   // int64 offset, int64 size; both -1 at the end

	// maxWrites bounds the writes of a flattened file.
	maxWrites = 1 << 23
)

// newSource looks through the flattened format if r has it.
func newSource(r io.ReaderAt, size int64) (*source, error) {
	if size < 0 {
		return nil, fmt.Errorf("%w: negative size", ErrFormat)
	}
	s := &source{r: r, size: uint64(size)}
	head := make([]byte, len(flatMagic))
	if s.size < flatHeader {
		return s, nil
	}
	if err := s.read(head, 0); err != nil {
		return nil, err
	}
	if !bytes.Equal(head, []byte(flatMagic)) {
		return s, nil
	}
	flat, err := newFlat(s)
	if err != nil {
		return nil, fmt.Errorf("flattened dump: %w", err)
	}
	return &source{r: flat, size: flat.size}, nil
}

// read fills p from an offset. A file that ends before is io.ErrUnexpectedEOF.
func (s *source) read(p []byte, at uint64) error {
	if at > s.size || uint64(len(p)) > s.size-at {
		return fmt.Errorf("%d bytes at offset %#x of %#x: %w", len(p), at, s.size, io.ErrUnexpectedEOF)
	}
	n, err := s.r.ReadAt(p, int64(at))
	switch {
	case n == len(p):
		return nil
	case err == nil || errors.Is(err, io.EOF):
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%d bytes at offset %#x: %w", len(p), at, err)
}

// flat undoes flattening.
type flat struct {
	file   *source
	writes []write // by offset, without overlaps
	size   uint64
}

type write struct {
	offset uint64 // in the dump
	size   uint64
	at     uint64 // in the file
}

func newFlat(file *source) (*flat, error) {
	f := &flat{file: file}
	for at := uint64(flatHeader); ; {
		var b [flatRecord]byte
		if err := file.read(b[:], at); err != nil {
			return nil, err
		}
		w := write{offset: binary.BigEndian.Uint64(b[:]), size: binary.BigEndian.Uint64(b[8:]), at: at + flatRecord}
		if w.offset == ^uint64(0) && w.size == ^uint64(0) {
			break
		}
		if w.size > file.size-w.at {
			return nil, fmt.Errorf("write of %d bytes at offset %#x of %#x: %w", w.size, w.at, file.size, io.ErrUnexpectedEOF)
		}
		if w.offset > 1<<62 || len(f.writes) >= maxWrites {
			return nil, fmt.Errorf("%w: write %d is to offset %#x", ErrFormat, len(f.writes), w.offset)
		}
		at = w.at + w.size
		if w.size > 0 {
			f.writes = append(f.writes, w)
		}
	}
	sort.Slice(f.writes, func(i, j int) bool { return f.writes[i].offset < f.writes[j].offset })
	for i, w := range f.writes {
		if w.offset < f.size {
			return nil, fmt.Errorf("%w: write %d is over another, at offset %#x", ErrFormat, i, w.offset)
		}
		f.size = w.offset + w.size
	}
	return f, nil
}

// ReadAt implements [io.ReaderAt]. What was not written is zeros, as it is in
// the file that makedumpfile -R makes.
func (f *flat) ReadAt(p []byte, off int64) (int, error) {
	done, at := 0, uint64(off)
	i := sort.Search(len(f.writes), func(i int) bool { return f.writes[i].offset+f.writes[i].size > at })
	for ; done < len(p) && i < len(f.writes); i++ {
		w := f.writes[i]
		if at < w.offset {
			gap := min(w.offset-at, uint64(len(p)-done))
			clear(p[done : done+int(gap)])
			done, at = done+int(gap), at+gap
		}
		n := min(w.offset+w.size-at, uint64(len(p)-done))
		if at < w.offset || n == 0 {
			break
		}
		if err := f.file.read(p[done:done+int(n)], w.at+at-w.offset); err != nil {
			return done, err
		}
		done, at = done+int(n), at+n
	}
	if done < len(p) {
		return done, io.EOF
	}
	return done, nil
}
