package baseline

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/ulikunitz/xz/lzma"
)

// xzReader reads one stream of the .xz format (version 1.2.1, tukaani.org/xz) with
// LZMA2 alone. The library's own reader takes as much memory as each block's header
// asks for, up to 4 GiB; this one takes no more than what is asked of it can need. It
// leaves the checks of blocks out: who asks has the content's digest.
type xzReader struct {
	in    *counted
	most  int64
	room  int64         // for dictionaries of blocks to come
	check int64         // bytes after each block
	block *lzma.Reader2 // nil between blocks
	short bool          // the block's dictionary is smaller than it asks for
	from  int64         // where the block's data begin
}

// xzAhead is how much room the library wants in the dictionary to go on (maxMatchLen):
// so much more, and all that is asked for is in it before it refers to more.
const xzAhead = 273

// xzChecks are the sizes of a block's check by its number (section 2.1.1.2).
var xzChecks = [16]int64{0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64}

// newXZ reads the stream's header (section 2.1.1).
func newXZ(in *bufio.Reader, most int64) (io.ReadCloser, error) {
	x := &xzReader{in: &counted{in: in}, most: most, room: most + 2*maxUnpackWindow}
	var head [12]byte
	if _, err := io.ReadFull(x.in, head[:]); err != nil {
		return nil, err
	}
	if string(head[:6]) != "\xFD7zXZ\x00" || head[6] != 0 || head[7] > 15 || crc32.ChecksumIEEE(head[6:8]) != binary.LittleEndian.Uint32(head[8:]) {
		return nil, fmt.Errorf("xz header: %w", errPacked)
	}
	x.check = xzChecks[head[7]]
	return io.NopCloser(x), nil
}

func (x *xzReader) Read(p []byte) (int, error) {
	for len(p) > 0 {
		if x.block == nil {
			if err := x.next(); err != nil {
				return 0, err
			}
		}
		n, err := x.block.Read(p)
		switch {
		case err == io.EOF:
			err = x.endBlock()
		case err != nil && x.short:
			err = fmt.Errorf("%w: %w", errWindow, err)
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
	return 0, nil
}

// endBlock passes over the padding (section 3.3) and the check.
func (x *xzReader) endBlock() error {
	x.block = nil
	skip := -(x.in.n-x.from)&3 + x.check
	if _, err := io.CopyN(io.Discard, x.in, skip); err != nil {
		return fmt.Errorf("end of xz block: %w", io.ErrUnexpectedEOF)
	}
	return nil
}

// next reads a block's header (section 3.1); io.EOF where the index begins.
func (x *xzReader) next() error {
	size, err := x.in.ReadByte()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	if size == 0 {
		return io.EOF
	}
	head := make([]byte, (int(size)+1)*4)
	head[0] = size
	if _, err := io.ReadFull(x.in, head[1:]); err != nil {
		return err
	}
	end := len(head) - 4
	if crc32.ChecksumIEEE(head[:end]) != binary.LittleEndian.Uint32(head[end:]) {
		return fmt.Errorf("xz block header: %w", errPacked)
	}
	dict, err := xzDictionary(head[1:end])
	if err != nil {
		return err
	}
	x.short = dict > maxUnpackWindow && x.most+xzAhead > maxUnpackWindow
	dict = max(min(dict, x.most+xzAhead, maxUnpackWindow), lzma.MinDictCap)
	// Each block gets a new one, and threads of xz make blocks of three times theirs.
	if x.room -= dict; x.room < 0 {
		return fmt.Errorf("many small xz blocks: %w", errWindow)
	}
	x.from = x.in.n
	x.block, err = lzma.Reader2Config{DictCap: int(dict)}.NewReader2(x.in)
	return err
}

// xzDictionary is the size of the dictionary that a block's header, from its flags
// on, asks for; an error unless LZMA2 (section 5.3.1) is its one filter.
func xzDictionary(head []byte) (int64, error) {
	d := decoder{rest: head}
	flags := d.take(1)[0]
	for _, bit := range []byte{0x40, 0x80} { // compressed and uncompressed size
		if flags&bit != 0 {
			d.uvarint(1<<63 - 1)
		}
	}
	filter, size := d.uvarint(1<<63-1), d.uvarint(1)
	dict := d.take(1)[0]
	if d.bad || flags&0x3F != 0 || filter != 0x21 || size != 1 {
		return 0, fmt.Errorf("xz filters: %w", errPacked)
	}
	return lzma.DecodeDictCap(dict)
}

// counted counts what is read.
type counted struct {
	in *bufio.Reader
	n  int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	c.n += int64(n)
	return n, err
}

func (c *counted) ReadByte() (byte, error) {
	b, err := c.in.ReadByte()
	if err == nil {
		c.n++
	}
	return b, err
}
