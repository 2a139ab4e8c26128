// Package lvm reads the metadata of LVM2 physical volumes and maps their linear
// and striped logical volumes.
//
// Format: LVM2 2.03, lib/format_text/layout.h and the text that vgcfgbackup
// writes. Thin, cached, mirrored and RAID volumes are listed by name only.
package lvm

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/internal/bin"
)

const (
	sector      = 512
	areaMagic   = " LVM2 x[5A%r0N*>"
	maxMetadata = 16 << 20
	maxAreas    = 16
	ignored     = 1 // RAW_LOCN_IGNORED
)

// Physical is one physical volume.
type Physical struct {
	// UUID is the volume's identity as LVM writes it, without dashes.
	UUID string
	// Text is the metadata of its volume group, "" when it holds none or
	// belongs to no group.
	Text string
}

// lvmSum is CRC-32 without the final inversion and with LVM's own start value
// (INITIAL_CRC).
func lvmSum(b []byte) uint32 { return ^crc32.Update(^uint32(0xf597a6cf), crc32.IEEETable, b) }

// ReadPhysical reads the label in one of the first four sectors and the metadata
// areas it names. A label that is not of its sector or has a wrong checksum LVM
// passes over (_find_lvm_header), and so does this.
func ReadPhysical(r io.ReaderAt, size int64) (*Physical, error) {
	b := make([]byte, 4*sector)
	if _, err := r.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("lvm: read label: %w", err)
	}
	bad := fmt.Errorf("lvm: no label: %w", filewatch.ErrCorrupt)
	for n := 0; n < 4; n++ {
		l := b[n*sector : (n+1)*sector]
		if string(l[:8]) != "LABELONE" || string(l[24:32]) != "LVM2 001" {
			continue
		}
		le := binary.LittleEndian
		if le.Uint64(l[8:]) != uint64(n) || lvmSum(l[0x14:]) != le.Uint32(l[0x10:]) {
			bad = fmt.Errorf("lvm: label of sector %d: its checksum is wrong, or it is not its place: %w", n, filewatch.ErrCorrupt)
			continue
		}
		p, err := readLabel(r, size, l)
		if err != nil {
			return nil, fmt.Errorf("lvm: %w", err)
		}
		return p, nil
	}
	return nil, bad
}

// readLabel is struct label_header: 0x14 offset of struct pv_header: identity, size,
// data areas, metadata areas, each list ended by zeros.
func readLabel(r io.ReaderAt, size int64, l []byte) (*Physical, error) {
	c := bin.Little(l)
	c.Seek(0x14)
	c.Seek(int(c.U32()))
	p := &Physical{UUID: string(c.Bytes(32))}
	c.U64()
	var areas [][2]uint64
	for list := 0; list < 2 && c.Err() == nil; {
		off, length := c.U64(), c.U64()
		switch {
		case off == 0:
			list++
		case list == 1 && len(areas) < maxAreas:
			areas = append(areas, [2]uint64{off, length})
		}
	}
	if c.Err() != nil {
		return nil, fmt.Errorf("label: %w: %w", filewatch.ErrCorrupt, c.Err())
	}
	return p, p.newest(r, size, areas)
}

// newest takes the text with the highest number, as LVM does. The error is that of
// an area, when none can be read, or of two that differ.
func (p *Physical) newest(r io.ReaderAt, size int64, areas [][2]uint64) error {
	var bad error
	var best Identity
	for _, a := range areas {
		text, err := readArea(r, size, int64(a[0]))
		if err != nil {
			bad = err
			continue
		}
		if text == "" {
			continue
		}
		id, err := Identify(text)
		if err != nil {
			return err
		}
		if p.Text != "" && id.Sequence == best.Sequence && !Same(p.Text, text) {
			return fmt.Errorf("two areas with metadata number %d that differ: %w", id.Sequence, filewatch.ErrCorrupt)
		}
		if p.Text == "" || id.Sequence > best.Sequence {
			p.Text, best = text, id
		}
	}
	if p.Text != "" {
		return nil
	}
	return bad
}

// readArea is struct mda_header at off: checksum, magic, version, start, size,
// then the place of the committed text, which may go around the end of the area, its
// checksum and flags. One that is to be ignored has none.
func readArea(r io.ReaderAt, size, off int64) (string, error) {
	b := make([]byte, sector)
	if off <= 0 || off+sector > size {
		return "", fmt.Errorf("metadata area at %#x: %w", off, filewatch.ErrCorrupt)
	}
	if _, err := r.ReadAt(b, off); err != nil {
		return "", fmt.Errorf("read metadata area: %w", err)
	}
	le := binary.LittleEndian
	if string(b[4:20]) != areaMagic || lvmSum(b[4:]) != le.Uint32(b) || le.Uint64(b[24:]) != uint64(off) {
		return "", fmt.Errorf("metadata area at %#x: magic or checksum: %w", off, filewatch.ErrCorrupt)
	}
	area, at, length, sum := le.Uint64(b[32:]), le.Uint64(b[40:]), le.Uint64(b[48:]), le.Uint32(b[56:])
	if at == 0 || le.Uint32(b[60:])&ignored != 0 {
		return "", nil
	}
	if length > maxMetadata || area > uint64(size) || at < sector || at >= area || length > area-sector {
		return "", fmt.Errorf("metadata of %d bytes at %#x of %#x: %w", length, at, area, filewatch.ErrCorrupt)
	}
	text := make([]byte, length)
	first := min(length, area-at)
	if _, err := r.ReadAt(text[:first], off+int64(at)); err != nil {
		return "", fmt.Errorf("read metadata: %w", err)
	}
	if _, err := r.ReadAt(text[first:], off+sector); err != nil {
		return "", fmt.Errorf("read metadata: %w", err)
	}
	if lvmSum(text) != sum {
		return "", fmt.Errorf("metadata checksum: %w", filewatch.ErrCorrupt)
	}
	for len(text) > 0 && text[len(text)-1] == 0 {
		text = text[:len(text)-1]
	}
	return string(text), nil
}
