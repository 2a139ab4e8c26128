package dump

import (
	"fmt"
	"io"

	"github.com/plumbline-sec/plumbline/internal/bin"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// The kdump-compressed format (makedumpfile, IMPLEMENTATION and diskdump_mod.h;
// QEMU, include/sysemu/dump.h, DiskDumpHeader64 and KdumpSubHeader64). In blocks:
// header, sub header, two bitmaps of pages (RAM, and what of it was dumped), then
// a descriptor for each dumped page, then notes and pages.
const (
	kdumpMagic     = "KDUMP   "
	kdumpHeader    = 464
	kdumpSubHeader = 104
	kdumpPage      = 24 // struct page_desc

	// maxPages bounds the page frames of a dump: 1 TiB of addresses.
	maxPages = 1 << 28
)

// kdumpFacts is what the two headers say.
type kdumpFacts struct {
	bitmap    uint64 // offset of the bitmap of dumped pages
	bitmapLen uint64 // bytes
	pages     uint64 // offset of the page descriptors
	frames    uint64 // page frames the bitmap is for
	notes     uint64 // offset
	notesLen  uint64 // bytes
}

func (d *Dump) openKdump(src *source) error {
	facts, err := kdumpHeaders(src)
	if err != nil {
		return err
	}
	if facts.notesLen > 0 {
		if err := d.notes(src, facts.notes, facts.notesLen); err != nil {
			return err
		}
	}
	d.memory, err = newPages(src, facts)
	return err
}

func kdumpHeaders(src *source) (kdumpFacts, error) {
	var f kdumpFacts
	var b [kdumpHeader]byte
	if err := src.read(b[:], 0); err != nil {
		return f, err
	}
	c := bin.Little(b[:])
	c.Skip(8)
	version := c.U32()
	c.Seek(424)
	status, block, subBlocks, bitmapBlocks, frames := c.U32(), c.U32(), c.U32(), c.U32(), c.U32()
	switch {
	case version < 1 || version > 6:
		return f, fmt.Errorf("%w: version %d", ErrNotSupported, version)
	case block != mem.PageSize:
		return f, fmt.Errorf("%w: blocks of %d bytes", ErrNotSupported, block)
	case status&dumpIncomplete != 0:
		return f, fmt.Errorf("marked as incomplete by its writer: %w", io.ErrUnexpectedEOF)
	case bitmapBlocks == 0 || bitmapBlocks%2 != 0:
		return f, fmt.Errorf("%w: bitmaps of %d blocks", ErrFormat, bitmapBlocks)
	}
	var sub [kdumpSubHeader]byte
	if err := src.read(sub[:], mem.PageSize); err != nil {
		return f, fmt.Errorf("sub header: %w", err)
	}
	c = bin.Little(sub[:])
	c.Seek(12)
	if split := c.U32(); version >= 2 && split != 0 {
		return f, fmt.Errorf("%w: one of several files", ErrNotSupported)
	}
	f.frames = uint64(frames)
	if version >= 4 {
		c.Seek(48)
		f.notes, f.notesLen = c.U64(), c.U64()
	}
	if version >= 6 {
		c.Seek(96)
		f.frames = c.U64() // max_mapnr_64
	}
	half := uint64(bitmapBlocks) / 2 * mem.PageSize
	f.bitmap = (1+uint64(subBlocks))*mem.PageSize + half
	f.pages = f.bitmap + half
	f.bitmapLen = (f.frames + 7) / 8
	if f.frames == 0 || f.frames > maxPages || f.bitmapLen > half {
		return f, fmt.Errorf("%w: %d page frames in a bitmap of %d bytes", ErrFormat, f.frames, half)
	}
	return f, nil
}
