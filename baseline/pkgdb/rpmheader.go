package pkgdb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The parts of an RPM package, version 3 and 4 of the format: lead, signature
// header, header, payload (RPM's docs/manual/format.md, "RPM Package format").
const (
	rpmLead        = 96
	rpmMaxEntries  = 0xffff   // tags in one header, as rpm itself allows
	rpmMaxStore    = 64 << 20 // bytes of values
	rpmTypeInt16   = 3
	rpmTypeInt32   = 4
	rpmTypeInt64   = 5
	rpmTypeString  = 6
	rpmTypeBinary  = 7
	rpmTypeStrings = 8
	rpmTypeI18N    = 9
)

var (
	rpmLeadMagic   = []byte{0xed, 0xab, 0xee, 0xdb}
	rpmHeaderMagic = []byte{0x8e, 0xad, 0xe8, 0x01, 0, 0, 0, 0}
)

// rpmHeader is one header: index entries (tag 0x00, type 0x04, offset 0x08, count
// 0x0c, all big-endian) and the store that they point into.
type rpmHeader struct {
	raw     []byte // as it is signed
	entries map[uint32]rpmEntry
	store   []byte
}

type rpmEntry struct{ kind, offset, count uint32 }

// readRPMHeader reads a header; what precedes it has been read.
func readRPMHeader(r io.Reader) (*rpmHeader, error) {
	intro := make([]byte, 16)
	if _, err := io.ReadFull(r, intro); err != nil {
		return nil, fmt.Errorf("%w: header ends early", ErrNotPackage)
	}
	if !bytes.Equal(intro[:8], rpmHeaderMagic) {
		return nil, fmt.Errorf("%w: no header where one should be", ErrNotPackage)
	}
	n, size := binary.BigEndian.Uint32(intro[8:]), binary.BigEndian.Uint32(intro[12:])
	if n == 0 || n > rpmMaxEntries || size > rpmMaxStore {
		return nil, fmt.Errorf("%w: header of %d entries and %d bytes", ErrNotPackage, n, size)
	}
	var raw bytes.Buffer // grows with what is there, not with what is claimed
	raw.Write(intro)
	if want := int64(n)*16 + int64(size); want > 0 {
		if got, err := io.CopyN(&raw, r, want); err != nil || got != want {
			return nil, fmt.Errorf("%w: header ends early", ErrNotPackage)
		}
	}
	h := &rpmHeader{raw: raw.Bytes(), entries: map[uint32]rpmEntry{}}
	index := h.raw[16 : 16+n*16]
	h.store = h.raw[16+n*16:]
	for ; len(index) > 0; index = index[16:] {
		tag := binary.BigEndian.Uint32(index)
		if _, twice := h.entries[tag]; twice {
			return nil, fmt.Errorf("%w: tag %d twice", ErrNotPackage, tag)
		}
		h.entries[tag] = rpmEntry{binary.BigEndian.Uint32(index[4:]), binary.BigEndian.Uint32(index[8:]), binary.BigEndian.Uint32(index[12:])}
	}
	return h, nil
}

var errNoTag = errors.New("no such tag")

// at gives an entry's bytes in the store, from its offset on.
func (h *rpmHeader) at(tag uint32, kinds ...uint32) ([]byte, uint32, error) {
	e, ok := h.entries[tag]
	if !ok {
		return nil, 0, errNoTag
	}
	for _, kind := range kinds {
		if e.kind == kind && e.offset <= uint32(len(h.store)) && e.count <= uint32(len(h.store)) {
			return h.store[e.offset:], e.count, nil
		}
	}
	return nil, 0, fmt.Errorf("%w: tag %d has type %d, offset %d and count %d", ErrNotPackage, tag, e.kind, e.offset, e.count)
}

// bytes is a value of type BIN, nil when there is none.
func (h *rpmHeader) bytes(tag uint32) ([]byte, error) {
	b, n, err := h.at(tag, rpmTypeBinary)
	if err == errNoTag {
		return nil, nil
	}
	if err == nil && n > uint32(len(b)) {
		err = fmt.Errorf("%w: tag %d ends early", ErrNotPackage, tag)
	}
	if err != nil {
		return nil, err
	}
	return b[:n], nil
}

// strings are the values of a string or an array of them, nil when there is none.
func (h *rpmHeader) strings(tag uint32) ([]string, error) {
	b, n, err := h.at(tag, rpmTypeString, rpmTypeStrings, rpmTypeI18N)
	if err == errNoTag {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []string
	for range n {
		end := bytes.IndexByte(b, 0)
		if end < 0 {
			return nil, fmt.Errorf("%w: tag %d ends early", ErrNotPackage, tag)
		}
		out = append(out, string(b[:end]))
		b = b[end+1:]
	}
	return out, nil
}

// numbers are the values of an array of 16, 32 or 64 bit numbers, nil when there
// is none.
func (h *rpmHeader) numbers(tag uint32) ([]uint64, error) {
	b, n, err := h.at(tag, rpmTypeInt16, rpmTypeInt32, rpmTypeInt64)
	if err == errNoTag {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	width := map[uint32]int{rpmTypeInt16: 2, rpmTypeInt32: 4, rpmTypeInt64: 8}[h.entries[tag].kind]
	if int64(n)*int64(width) > int64(len(b)) {
		return nil, fmt.Errorf("%w: tag %d ends early", ErrNotPackage, tag)
	}
	out := make([]uint64, n)
	for i := range out {
		for _, digit := range b[i*width : (i+1)*width] {
			out[i] = out[i]<<8 | uint64(digit)
		}
	}
	return out, nil
}
