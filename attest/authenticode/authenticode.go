// Package authenticode computes the digest by which UEFI firmware measures and
// Secure Boot verifies an image: the hash of a PE file without its checksum and
// its signatures (Microsoft, "Windows Authenticode Portable Executable
// Signature Format", 2008, "Calculating the PE Image Hash"; EDK2 does the same
// in Tcg2Dxe's MeasurePeCoff.c). Signing does not change the digest of an image whose
// size is a multiple of 8; others the signing tools pad first.
package authenticode

import (
	"cmp"
	"crypto"
	_ "crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/plumbline-sec/plumbline/internal/bin"
)

// Limits on hostile files.
const (
	maxHeaders  = 1 << 20
	maxSections = 256 // the loader of Windows allows 96
)

// ErrFormat means that a file is not a PE image.
var ErrFormat = errors.New("not a PE image")

// Section is a section's place in the file.
type Section struct {
	Name   string
	Offset int64
	Size   int64 // bytes in the file
	// Virtual is the content's length; in a UKI the bytes after it are padding.
	Virtual int64
}

// Image is a PE file as far as its digest needs it.
type Image struct {
	Sections []Section

	r        io.ReaderAt
	size     int64
	checksum int64 // offset of the optional header's CheckSum
	certDir  int64 // offset of the certificate table's data directory; 0 if absent
	certSize int64
	headers  int64 // SizeOfHeaders
}

// Open reads the image at path and returns it with the file to close.
func Open(path string) (*Image, io.Closer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	image, err := New(f, info.Size())
	if err != nil {
		f.Close()
		return nil, nil, fmt.Errorf("read %s: %w", path, err)
	}
	return image, f, nil
}

// New reads the headers of a PE image of size bytes (Microsoft PE Format). Errors
// wrap [ErrFormat] or are the reader's.
func New(r io.ReaderAt, size int64) (*Image, error) {
	head := make([]byte, min(size, maxHeaders))
	if _, err := io.ReadFull(io.NewSectionReader(r, 0, size), head); err != nil {
		return nil, fmt.Errorf("read headers: %w", err)
	}
	image := &Image{r: r, size: size}
	if err := image.parse(bin.Little(head)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return image, nil
}

func (m *Image) parse(c *bin.Cursor) error {
	if string(c.Bytes(2)) != "MZ" {
		return errors.New("no MZ signature")
	}
	c.Seek(0x3c)
	c.Seek(int(c.U32()))
	if string(c.Bytes(4)) != "PE\x00\x00" {
		return errors.New("no PE signature")
	}
	c.Skip(2)
	sections := int(c.U16())
	c.Skip(12)
	optionalSize := int(c.U16())
	c.Skip(2)
	optional := c.Offset()
	if err := m.parseOptional(c, optionalSize); err != nil {
		return err
	}
	c.Seek(optional + optionalSize)
	if sections > maxSections {
		return fmt.Errorf("%d sections", sections)
	}
	for range sections {
		s := Section{Name: strings.TrimRight(string(c.Bytes(8)), "\x00"), Virtual: int64(c.U32())}
		c.Skip(4)
		s.Size, s.Offset = int64(c.U32()), int64(c.U32())
		c.Skip(16)
		if c.Err() == nil && s.Size > 0 && s.Offset+s.Size > m.size {
			return fmt.Errorf("section %q ends after the file", s.Name)
		}
		m.Sections = append(m.Sections, s)
	}
	return c.Err()
}

// parseOptional reads the optional header: PE32 (0x10b) or PE32+ (0x20b).
func (m *Image) parseOptional(c *bin.Cursor, size int) error {
	start := c.Offset()
	var directories int // offset of NumberOfRvaAndSizes
	switch magic := c.U16(); magic {
	case 0x10b:
		directories = start + 92
	case 0x20b:
		directories = start + 108
	default:
		return fmt.Errorf("optional header %#04x", magic)
	}
	c.Seek(start + 60)
	m.headers = int64(c.U32())
	m.checksum = int64(c.Offset())
	c.Seek(directories)
	count := c.U32()
	const security = 4 // IMAGE_DIRECTORY_ENTRY_SECURITY
	if err := c.Err(); err != nil {
		return err
	}
	if count > security && directories+4+(security+1)*8 <= start+size {
		c.Seek(directories + 4 + security*8)
		m.certDir = int64(c.Offset())
		c.Skip(4)
		m.certSize = int64(c.U32())
	}
	end := max(m.checksum+4, m.certDir+8)
	if m.headers < end || m.headers > m.size || m.certSize > m.size-m.headers {
		return fmt.Errorf("headers of %d and signatures of %d bytes in a file of %d", m.headers, m.certSize, m.size)
	}
	return c.Err()
}

// Digest hashes the image with h.
func (m *Image) Digest(h crypto.Hash) ([]byte, error) {
	sum := h.New()
	ranges := [][2]int64{{0, m.checksum}, {m.checksum + 4, m.headers}}
	if m.certDir != 0 {
		ranges = [][2]int64{{0, m.checksum}, {m.checksum + 4, m.certDir}, {m.certDir + 8, m.headers}}
	}
	hashed := m.headers
	sections := slices.Clone(m.Sections)
	slices.SortStableFunc(sections, func(a, b Section) int { return cmp.Compare(a.Offset, b.Offset) })
	for _, s := range sections {
		if s.Size == 0 {
			continue
		}
		ranges = append(ranges, [2]int64{s.Offset, s.Offset + s.Size})
		hashed += s.Size
	}
	// What lies after the sections belongs to the image, the certificate table,
	// which is last, does not.
	if m.size-m.certSize > hashed {
		ranges = append(ranges, [2]int64{hashed, m.size - m.certSize})
	}
	for _, r := range ranges {
		if err := m.hashRange(sum, r[0], r[1]); err != nil {
			return nil, err
		}
	}
	return sum.Sum(nil), nil
}

func (m *Image) hashRange(sum hash.Hash, from, to int64) error {
	n, err := io.Copy(sum, io.NewSectionReader(m.r, from, to-from))
	if err == nil && n != to-from {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("read image: %w", err)
	}
	return nil
}

// Content reads a section without its padding, at most limit bytes of it; nil
// if there is no such section.
func (m *Image) Content(name string, limit int64) ([]byte, error) {
	for _, s := range m.Sections {
		if s.Name != name {
			continue
		}
		data := make([]byte, min(s.Size, s.Virtual, limit))
		if _, err := io.ReadFull(io.NewSectionReader(m.r, s.Offset, s.Size), data); err != nil {
			return nil, fmt.Errorf("read section %s: %w", name, err)
		}
		return data, nil
	}
	return nil, nil
}
