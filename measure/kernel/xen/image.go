package xen

import (
	"encoding/binary"
	"fmt"

	"github.com/plumbline-sec/plumbline/internal/bin"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Image is a Xen as its file says it should be. It is safe for concurrent use.
type Image struct {
	BuildID string // GNU build-id, lower-case hex
	Release string // such as "4.17.7", empty if it could not be read
	Symbols *kernel.Symbols

	data   []byte // from Base on
	bounds Bounds
	sites  []site // ascending
	// exceptions are the tables of faults that are expected.
	exceptions []Table
	// sealed are functions whose ENDBR64 may be taken away.
	sealed map[mem.Virt]bool
	// entries are the handlers of vectors that have one from assembly.
	entries [256]mem.Virt
}

// Bounds are those of the parts of an image that do not change.
type Bounds struct {
	Text, TextEnd     mem.Virt // from _stext up to the end of the page with _etext: all that is executable
	Rodata, RodataEnd mem.Virt // whole pages
	// SetAtBoot is the part of the read-only data that is written once, empty
	// before 4.17, where it is part of the data.
	SetAtBoot, SetAtBootEnd mem.Virt
}

// maxFile bounds Xen's file, in bytes; a vmlinux is read to see that it is none.
const maxFile = 1 << 30

// OpenImage reads Xen's file as it is in /boot: a multiboot ELF, gzipped or not.
// What is something else is [ErrNotXen], so that a caller can try that.
func OpenImage(path string) (*Image, error) {
	b, err := bin.ReadFile(path, maxFile)
	if err != nil {
		return nil, err
	}
	img, err := NewImage(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return img, nil
}

// NewImage is [OpenImage] of bytes.
func NewImage(b []byte) (*Image, error) {
	if !IsImage(b) {
		return nil, ErrNotXen
	}
	b, err := unpack(b)
	if err != nil {
		return nil, err
	}
	f, err := parseFile(b)
	if err != nil {
		return nil, err
	}
	img := &Image{data: f.data}
	if mem.Virt(f.phys) != Base-virtStart {
		return nil, fmt.Errorf("%w: loaded at %#x", ErrLayout, f.phys)
	}
	if img.BuildID, err = kernel.BuildIDOf(f.note); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotXen, err)
	}
	if img.Symbols, err = kernel.DecodeSymbolTable(f.data[:len(f.data)&^7], uint64(virtStart)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLayout, err)
	}
	if img.bounds, err = boundsOf(img.Symbols, len(f.data)); err != nil {
		return nil, err
	}
	if id, err := buildID(img.At(img.bounds.Rodata, int(img.bounds.RodataEnd-img.bounds.Rodata))); err != nil || id != img.BuildID {
		return nil, fmt.Errorf("%w: build-id %s in the image, %s in its note (%v)", ErrLayout, id, img.BuildID, err)
	}
	img.Release = release(img.Symbols, img.At)
	return img, img.findTables()
}

// boundsOf cuts an image of size bytes by its symbols.
func boundsOf(symbols *kernel.Symbols, size int) (Bounds, error) {
	at := func(name string) mem.Virt {
		v, _ := symbols.Address(name)
		return mem.Virt(v)
	}
	end := (at("_etext") + mem.PageSize - 1) &^ (mem.PageSize - 1)
	b := Bounds{Text: at("_stext"), TextEnd: end, Rodata: end, RodataEnd: at("__2M_rodata_end"),
		SetAtBoot: at("__ro_after_init_start"), SetAtBootEnd: at("__ro_after_init_end")}
	if start := at("__2M_rodata_start"); start != 0 && start != b.Rodata {
		return b, fmt.Errorf("%w: read-only data at %v", ErrLayout, start)
	}
	if b.Text != Base || b.TextEnd <= b.Text || b.RodataEnd <= b.Rodata || b.RodataEnd%mem.PageSize != 0 || b.RodataEnd > Base+mem.Virt(size) ||
		b.SetAtBootEnd < b.SetAtBoot || b.SetAtBoot != 0 && (b.SetAtBoot < b.Rodata || b.SetAtBootEnd > b.RodataEnd) {
		return b, fmt.Errorf("%w: text [%v, %v), read-only data up to %v", ErrLayout, b.Text, b.TextEnd, b.RodataEnd)
	}
	return b, nil
}

// Bounds returns the bounds of text and read-only data.
func (img *Image) Bounds() Bounds { return img.bounds }

// At returns n bytes of the file at an address, nil if it does not hold them.
func (img *Image) At(at mem.Virt, n int) []byte {
	if at < Base || uint64(at-Base) > uint64(len(img.data)) || n < 0 || n > len(img.data)-int(at-Base) {
		return nil
	}
	return img.data[at-Base:][:n:n]
}

func (img *Image) s32(at mem.Virt) int32 {
	if b := img.At(at, 4); b != nil {
		return int32(binary.LittleEndian.Uint32(b))
	}
	return 0
}

func (img *Image) u64(at mem.Virt) uint64 {
	if b := img.At(at, 8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

// inText reports whether an address lies in text that stays after boot.
func (img *Image) inText(at mem.Virt) bool { return at >= img.bounds.Text && at < img.bounds.TextEnd }

// Function reports whether a function starts at an address of text.
func (img *Image) Function(at mem.Virt) bool {
	return img.inText(at) && img.Symbols.Start(uint64(at))
}

// Name names an address, "name+0x10".
func (img *Image) Name(at mem.Virt) string {
	name, start, ok := img.Symbols.Lookup(uint64(at))
	switch {
	case !ok || at < Base || at >= Base+mem.Virt(len(img.data)):
		return ""
	case uint64(at) == start:
		return name
	}
	return fmt.Sprintf("%s+%#x", name, uint64(at)-start)
}
