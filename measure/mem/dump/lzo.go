package dump

import (
	"errors"
	"io"
)

var errLZO = errors.New("not an LZO1X stream")

// unLZO decompresses a stream of LZO1X (Linux, Documentation/staging/lzo.rst,
// version 0 of the bit stream) to at most limit bytes.
func unLZO(src []byte, limit int) ([]byte, error) {
	d := lzo{src: src, limit: limit}
	if first := d.peek(); first > 17 {
		d.at++
		d.literals(int(first) - 17)
		if d.state = int(first) - 17; d.state > 3 {
			d.state = 4
		}
	}
	for d.err == nil && !d.ended {
		d.instruction()
	}
	if d.err == nil && d.at != len(src) {
		d.err = errLZO // bytes after the end
	}
	if d.err != nil {
		return nil, d.err
	}
	return d.out, nil
}

type lzo struct {
	src   []byte
	at    int
	out   []byte
	limit int
	state int // literals that the last instruction copied; 4 for more than 3
	ended bool
	err   error
}

func (d *lzo) fail(err error) {
	if d.err == nil {
		d.err = err
	}
}

func (d *lzo) peek() byte {
	if d.at >= len(d.src) {
		d.fail(io.ErrUnexpectedEOF)
		return 0
	}
	return d.src[d.at]
}

func (d *lzo) byte() int {
	b := d.peek()
	d.at++
	return int(b)
}

// length is that of an instruction: its own bits, or if none is set, all of them
// and what follows, 255 for each zero byte.
func (d *lzo) length(bits, mask int) int {
	if n := bits & mask; n != 0 {
		return n
	}
	n := mask
	for d.err == nil && n <= d.limit {
		b := d.byte()
		if b != 0 {
			return n + b
		}
		n += 255
	}
	d.fail(errLZO)
	return 0
}

// instruction runs one. The names of bits are those of the document.
func (d *lzo) instruction() {
	b := d.byte()
	switch {
	case d.err != nil:
	case b >= 128:
		d.match(5+b>>5&3, d.byte()<<3+b>>2&7+1, b)
	case b >= 64:
		d.match(3+b>>5&1, d.byte()<<3+b>>2&7+1, b)
	case b >= 32:
		n := d.length(b, 31) + 2
		low := d.byte()
		d.match(n, (d.byte()<<8+low)>>2+1, low)
	case b >= 16:
		n := d.length(b, 7) + 2
		low := d.byte()
		distance := b&8<<11 + (d.byte()<<8+low)>>2 + 16384
		if d.ended = distance == 16384; !d.ended {
			d.match(n, distance, low)
		}
	case d.state == 0:
		d.literals(d.length(b, 15) + 3)
		d.state = 4
	case d.state == 4:
		d.match(3, d.byte()<<2+b>>2+2049, b)
	default:
		d.match(2, d.byte()<<2+b>>2+1, b)
	}
}

// match copies what was put out before, which may be what it is putting out, then
// as many literals as the two bits say.
func (d *lzo) match(n, distance, bits int) {
	if d.err != nil || distance > len(d.out) || n > d.limit-len(d.out) {
		d.fail(errLZO)
		return
	}
	for range n {
		d.out = append(d.out, d.out[len(d.out)-distance])
	}
	d.state = bits & 3
	d.literals(d.state)
}

func (d *lzo) literals(n int) {
	if n > len(d.src)-d.at {
		d.fail(io.ErrUnexpectedEOF)
	} else if n > d.limit-len(d.out) {
		d.fail(errLZO)
	}
	if d.err == nil {
		d.out = append(d.out, d.src[d.at:d.at+n]...)
		d.at += n
	}
}
