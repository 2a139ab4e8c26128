package sorted

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"slices"
	"sort"

	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/internal/keyed"
)

// File reads what a [Writer] wrote, block by block. It is not safe for concurrent
// use.
type File struct {
	r      io.ReaderAt
	ref    Ref
	index  []byte
	blocks []blockAt
	secret keyed.Key
	digest *keyed.Hash // nil until it is needed
	kept   map[int]*keptBlock
	oldest []*keptBlock // those in kept, round robin
	turn   int
	buf    []byte // of the last read
	next   int    // block behind those read last
	ahead  int    // bytes read then
}

// blockAt is where a block is, and where in the index its digest and the beginning
// of its first entry behind that.
type blockAt struct {
	off    int64
	size   uint32
	digest uint32
	keyLen uint8
}

// keptBlock is one that was read. Its memory is used again for another: fresh
// memory costs more than what is read into it.
type keptBlock struct {
	number   int
	raw      []byte
	verified bool
}

// maxKept is how many blocks are kept. Who goes forward, by no more than nearBy
// blocks, will ask for most of what follows: with each step twice as much is read,
// up to aheadLen bytes. Who jumps gets the one block.
const (
	maxKept  = 64
	nearBy   = 4
	aheadLen = 16 << 10
)

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
	f := &File{r: r, ref: ref, kept: map[int]*keptBlock{}}
	if err := f.parse(index); err != nil {
		return nil, fmt.Errorf("%s: %w", ref.Name, err)
	}
	return f, nil
}

// readAll reads n bytes at off without trusting n beyond what is there.
func readAll(r io.ReaderAt, off, n int64) ([]byte, error) {
	if n > 0 {
		if _, err := r.ReadAt(make([]byte, 1), off+n-1); err != nil {
			return nil, fmt.Errorf("%d bytes at %d: %w: %w", n, off, ErrDamaged, err)
		}
	}
	b := make([]byte, n)
	if got, err := r.ReadAt(b, off); int64(got) < n {
		return nil, fmt.Errorf("%d bytes, want %d: %w: %w", got, n, ErrDamaged, err)
	}
	return b, nil
}

func (f *File) parse(index []byte) error {
	if len(index) < len(f.secret) {
		return fmt.Errorf("index: %w", ErrDamaged)
	}
	f.index, f.blocks = index, make([]blockAt, 0, len(index)/(digestLen+keyLen))
	var off int64
	for at := copy(f.secret[:], index); at < len(index); {
		size, n := binary.Uvarint(index[at:])
		if at += n; n <= 0 || size == 0 || size > maxEntry+2*blockLen || len(index)-at <= digestLen {
			return fmt.Errorf("index: %w", ErrDamaged)
		}
		b := blockAt{off: off, size: uint32(size), digest: uint32(at), keyLen: index[at+digestLen]}
		if at += digestLen + 1; int(b.keyLen) > min(len(index)-at, keyLen) {
			return fmt.Errorf("index: %w", ErrDamaged)
		}
		at += int(b.keyLen)
		f.blocks = append(f.blocks, b)
		off += int64(size)
	}
	if off != f.ref.Index {
		return fmt.Errorf("blocks of %d bytes before the index at %d: %w", off, f.ref.Index, ErrDamaged)
	}
	return nil
}

// Again is the file for another goroutine: only what is kept of blocks is its own.
func (f *File) Again() *File {
	return &File{r: f.r, ref: f.ref, index: f.index, blocks: f.blocks, secret: f.secret, kept: map[int]*keptBlock{}}
}

// key is the beginning of a block's first entry.
func (f *File) key(i int) []byte {
	b := &f.blocks[i]
	return f.index[b.digest+digestLen+1:][:b.keyLen]
}

// Blocks is how many there are.
func (f *File) Blocks() int { return len(f.blocks) }

// block gives a block that is as it was written. It is valid until another is asked
// for.
func (f *File) block(i int) ([]byte, error) {
	b := f.kept[i]
	if b == nil {
		if err := f.read(i); err != nil {
			return nil, fmt.Errorf("%s: read block %d: %w", f.ref.Name, i, err)
		}
		b = f.kept[i]
	}
	if !b.verified {
		if f.digest == nil {
			var err error
			if f.digest, err = keyed.New(f.secret); err != nil {
				return nil, err
			}
		}
		sum := f.digest.Sum(uint64(i), b.raw)
		if !bytes.Equal(sum[:], f.index[f.blocks[i].digest:][:digestLen]) {
			return nil, fmt.Errorf("%s: block %d: %w", f.ref.Name, i, ErrDamaged)
		}
		b.verified = true
	}
	return b.raw, nil
}

// read reads a block and, where that goes on from what was read before, some of
// those behind it.
func (f *File) read(i int) error {
	if f.next <= i && i < f.next+nearBy {
		f.ahead = min(max(2*f.ahead, 2*blockLen), aheadLen)
	} else {
		f.ahead = 0
	}
	first, end := f.blocks[i].off, i+1
	size := int(f.blocks[i].size)
	for end < len(f.blocks) && size+int(f.blocks[end].size) <= f.ahead {
		size += int(f.blocks[end].size)
		end++
	}
	f.next = end
	raw := slices.Grow(f.buf[:0], size)[:size]
	if size <= aheadLen {
		f.buf = raw
	}
	if n, err := f.r.ReadAt(raw, first); n < len(raw) {
		if err == io.EOF {
			err = ErrDamaged // it is cut
		}
		return err
	}
	for n := i; n < end; n++ {
		if f.kept[n] == nil {
			from := f.blocks[n].off - first
			f.keep(n, raw[from:from+int64(f.blocks[n].size)])
		}
	}
	return nil
}

// keep keeps a copy of a block, in the place of the oldest where there are enough.
func (f *File) keep(number int, raw []byte) {
	var b *keptBlock
	if len(f.oldest) < maxKept {
		b = &keptBlock{}
		f.oldest = append(f.oldest, b)
	} else {
		b = f.oldest[f.turn]
		f.turn = (f.turn + 1) % maxKept
		delete(f.kept, b.number)
		if cap(b.raw) > 4*blockLen {
			b.raw = nil // a large one is rare
		}
	}
	b.number, b.raw, b.verified = number, append(b.raw[:0], raw...), false
	f.kept[number] = b
}

// Cursor goes forward through the entries.
type Cursor struct {
	f     *File
	block int    // that rest is of
	end   int    // number of the first block not to enter
	raw   []byte // copy of the block
	rest  []byte // of it, behind the entry
	entry []byte
	state cursorState
}

type cursorState byte

const (
	before cursorState = iota // the block is still to be read
	behind                    // the entry was given
	on
)

// All starts at the first entry.
func (f *File) All() *Cursor { return &Cursor{f: f, end: len(f.blocks)} }

// Enter has the cursor go through the entries of one block.
func (c *Cursor) Enter(i int) error {
	if i < 0 || i >= len(c.f.blocks) {
		return fmt.Errorf("%s: block %d of %d: %w", c.f.ref.Name, i, len(c.f.blocks), ErrDamaged)
	}
	c.block, c.end, c.state = i, i+1, before
	return nil
}

// Seek goes to the first entry that is not before key, wherever the cursor is, and
// gives it as Peek does. The entries are in the order of their bytes.
func (c *Cursor) Seek(key []byte) ([]byte, error) {
	c.end = len(c.f.blocks)
	c.seek(key)
	return c.To(key)
}

func (c *Cursor) seek(key []byte) {
	short := key[:min(len(key), keyLen)]
	i := sort.Search(c.end, func(i int) bool { return bytes.Compare(c.f.key(i), short) >= 0 })
	c.block, c.state = max(0, i-1), before
}

// To goes to the first entry from here on that is not before key, and gives it as
// Peek does. It is nil at the end.
func (c *Cursor) To(key []byte) ([]byte, error) {
	// Where the next block begins before the key, this one and maybe many more
	// need not be looked at.
	if next := c.block + 1; next < c.end && bytes.Compare(c.f.key(next), key[:min(len(key), keyLen)]) < 0 {
		c.seek(key)
	}
	for {
		e, err := c.Peek()
		if e == nil || err != nil || bytes.Compare(e, key) >= 0 {
			return e, err
		}
		c.state = behind
	}
}

// Next gives the entry at the cursor as Peek does, and goes on.
func (c *Cursor) Next() ([]byte, error) {
	e, err := c.Peek()
	if e != nil {
		c.state = behind
	}
	return e, err
}

// Peek gives the entry at the cursor, nil at the end. It is valid, and must not be
// changed, until the cursor is used again after it went on.
func (c *Cursor) Peek() ([]byte, error) {
	if c.state == on {
		return c.entry, nil
	}
	for c.state == before || len(c.rest) == 0 {
		if c.state == behind {
			c.block, c.state = c.block+1, before
		}
		if c.block >= c.end {
			return nil, nil
		}
		raw, err := c.f.block(c.block)
		if err != nil {
			return nil, err
		}
		c.raw = append(c.raw[:0], raw...)
		c.rest = c.raw
		c.entry, c.state = c.entry[:0], behind
	}
	if err := c.decode(); err != nil {
		return nil, fmt.Errorf("%s: block %d: %w", c.f.ref.Name, c.block, err)
	}
	c.state = on
	return c.entry, nil
}

// decode makes the next entry out of the one before.
func (c *Cursor) decode() error {
	shared, n := binary.Uvarint(c.rest)
	if n <= 0 || shared > uint64(len(c.entry)) {
		return ErrDamaged
	}
	size, m := binary.Uvarint(c.rest[n:])
	if m <= 0 || size > uint64(len(c.rest)-n-m) || shared+size > maxEntry {
		return ErrDamaged
	}
	end := n + m + int(size)
	c.entry = append(c.entry[:shared], c.rest[n+m:end]...)
	if c.entry == nil {
		c.entry = []byte{} // nil is the end
	}
	c.rest = c.rest[end:]
	return nil
}
