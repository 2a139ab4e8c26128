package sorted

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"sort"

	"github.com/zeebo/blake3"
)

// File reads what a [Writer] wrote, block by block. It is not safe for concurrent
// use.
type File struct {
	r      io.ReaderAt
	ref    Ref
	blocks []blockAt
	ends   []byte // beginnings of first entries, one after the other
	raw    []byte // scratch
	cached map[int]*Block
}

// blockAt is where a block and the beginning of its first entry are.
type blockAt struct {
	off    int64
	size   uint32
	key    uint32 // in ends
	keyLen uint8
	digest [digestLen]byte
}

// maxCached is how many decoded blocks are kept.
const maxCached = 64

// maxIndex bounds the index of one file: 4 million blocks.
const maxIndex = 256 << 20

// Open reads the index.
func Open(r io.ReaderAt, ref Ref) (*File, error) {
	n := ref.Size - ref.Index
	if ref.Index < 0 || n < 0 || n > maxIndex {
		return nil, fmt.Errorf("%s: index of %d bytes at %d: %w", ref.Name, n, ref.Index, ErrDamaged)
	}
	index, err := readAll(r, ref.Index, n)
	if err != nil {
		return nil, fmt.Errorf("%s: read index: %w", ref.Name, err)
	}
	sum := blake3.Sum256(index)
	if hex.EncodeToString(sum[:]) != ref.BLAKE3 {
		return nil, fmt.Errorf("%s: index: %w", ref.Name, ErrDamaged)
	}
	f := &File{r: r, ref: ref, cached: map[int]*Block{}}
	if err := f.parse(index); err != nil {
		return nil, fmt.Errorf("%s: %w", ref.Name, err)
	}
	return f, nil
}

// readAll reads n bytes at off without trusting n beyond what is there.
func readAll(r io.ReaderAt, off, n int64) ([]byte, error) {
	var b bytes.Buffer
	got, err := io.Copy(&b, io.NewSectionReader(r, off, n))
	if err == nil && got != n {
		err = fmt.Errorf("%d bytes, want %d: %w", got, n, ErrDamaged)
	}
	return b.Bytes(), err
}

func (f *File) parse(index []byte) error {
	var off int64
	for len(index) > 0 {
		size, n := binary.Uvarint(index)
		if n <= 0 || size == 0 || size > maxEntry+2*blockLen || len(index) < n+digestLen+1 {
			return fmt.Errorf("index: %w", ErrDamaged)
		}
		b := blockAt{off: off, size: uint32(size), key: uint32(len(f.ends)), keyLen: index[n+digestLen]}
		copy(b.digest[:], index[n:])
		if index = index[n+digestLen+1:]; int(b.keyLen) > min(len(index), keyLen) {
			return fmt.Errorf("index: %w", ErrDamaged)
		}
		f.ends = append(f.ends, index[:b.keyLen]...)
		index = index[b.keyLen:]
		f.blocks = append(f.blocks, b)
		off += int64(size)
	}
	if off != f.ref.Index {
		return fmt.Errorf("blocks of %d bytes before the index at %d: %w", off, f.ref.Index, ErrDamaged)
	}
	return nil
}

func (f *File) key(i int) []byte { return f.ends[f.blocks[i].key:][:f.blocks[i].keyLen] }

// Blocks is how many there are.
func (f *File) Blocks() int { return len(f.blocks) }

// Block is the decoded entries of one block.
type Block struct {
	text []byte
	ends []uint32
}

// Len is how many entries there are.
func (b *Block) Len() int { return len(b.ends) }

// Entry is the i-th; it must not be changed.
func (b *Block) Entry(i int) []byte {
	start := uint32(0)
	if i > 0 {
		start = b.ends[i-1]
	}
	return b.text[start:b.ends[i]:b.ends[i]]
}

// Block reads and verifies a block.
func (f *File) Block(i int) (*Block, error) {
	if b := f.cached[i]; b != nil {
		return b, nil
	}
	if i < 0 || i >= len(f.blocks) {
		return nil, fmt.Errorf("%s: block %d of %d: %w", f.ref.Name, i, len(f.blocks), ErrDamaged)
	}
	at := &f.blocks[i]
	if cap(f.raw) < int(at.size) {
		f.raw = make([]byte, at.size)
	}
	f.raw = f.raw[:at.size]
	if n, err := f.r.ReadAt(f.raw, at.off); n < len(f.raw) {
		if err == io.EOF {
			err = ErrDamaged // it is cut
		}
		return nil, fmt.Errorf("%s: read block %d: %w", f.ref.Name, i, err)
	}
	if sum := blake3.Sum256(f.raw); !bytes.Equal(sum[:digestLen], at.digest[:]) {
		return nil, fmt.Errorf("%s: block %d: %w", f.ref.Name, i, ErrDamaged)
	}
	b, err := decodeBlock(f.raw)
	if err != nil {
		return nil, fmt.Errorf("%s: block %d: %w", f.ref.Name, i, err)
	}
	if len(f.cached) >= maxCached {
		clear(f.cached)
	}
	f.cached[i] = b
	return b, nil
}

// maxDecoded bounds a decoded block: entries may share all but a byte or two.
const maxDecoded = maxEntry + 1<<20

func decodeBlock(raw []byte) (*Block, error) {
	b := &Block{text: make([]byte, 0, 3*blockLen)}
	start := 0 // of the entry before
	for len(raw) > 0 {
		shared, n := binary.Uvarint(raw)
		if n <= 0 || shared > uint64(len(b.text)-start) {
			return nil, ErrDamaged
		}
		size, m := binary.Uvarint(raw[n:])
		if m <= 0 || size > uint64(len(raw)-n-m) || uint64(len(b.text))+shared+size > maxDecoded {
			return nil, ErrDamaged
		}
		at := len(b.text)
		b.text = append(b.text, b.text[start:start+int(shared)]...)
		b.text = append(b.text, raw[n+m:n+m+int(size)]...)
		b.ends = append(b.ends, uint32(len(b.text)))
		raw, start = raw[n+m+int(size):], at
	}
	return b, nil
}

// Cursor goes forward through the entries.
type Cursor struct {
	f     *File
	block int
	now   *Block
	entry int
}

// All starts at the first entry.
func (f *File) All() *Cursor { return &Cursor{f: f} }

// Seek starts at the first entry that is not before key. The entries are in the
// order of their bytes.
func (f *File) Seek(key []byte) *Cursor {
	c := &Cursor{f: f}
	c.seek(key)
	c.To(key) // an error comes again
	return c
}

func (c *Cursor) seek(key []byte) {
	short := key[:min(len(key), keyLen)]
	i := sort.Search(len(c.f.blocks), func(i int) bool { return bytes.Compare(c.f.key(i), short) >= 0 })
	c.block, c.now, c.entry = max(0, i-1), nil, 0
}

// To goes to the first entry from here on that is not before key, and gives it.
// It is nil at the end.
func (c *Cursor) To(key []byte) ([]byte, error) {
	// Where the next block begins before the key, this one and maybe many more
	// need not be looked at.
	if next := c.block + 1; next < len(c.f.blocks) && bytes.Compare(c.f.key(next), key[:min(len(key), keyLen)]) < 0 {
		c.seek(key)
	}
	for {
		e, err := c.Peek()
		if e == nil || err != nil || bytes.Compare(e, key) >= 0 {
			return e, err
		}
		c.entry++
	}
}

// Peek gives the entry at the cursor, nil at the end. It must not be changed.
func (c *Cursor) Peek() ([]byte, error) {
	for {
		if c.now != nil && c.entry < c.now.Len() {
			return c.now.Entry(c.entry), nil
		}
		if c.now != nil {
			c.block, c.now, c.entry = c.block+1, nil, 0
		}
		if c.block >= len(c.f.blocks) {
			return nil, nil
		}
		var err error
		if c.now, err = c.f.Block(c.block); err != nil {
			return nil, err
		}
	}
}

// Next gives the entry at the cursor and goes on.
func (c *Cursor) Next() ([]byte, error) {
	e, err := c.Peek()
	if e != nil {
		c.entry++
	}
	return e, err
}
