package manysha

import (
	"encoding/binary"
	"io"
	"unsafe"
)

// lane is a message under way.
type lane struct {
	// at are whole blocks that can be hashed, this many.
	at     *byte
	blocks int
	busy   bool
	padded bool // they are the last
	rest   []byte
	part   [2 * blockSize]byte // the beginning of a block, then the padding
	filled int                 // of part
	size   uint64              // of what was taken so far
	source Source              // nil for a queued message
	sum    *[Size]byte
	err    error
}

// refill gives the lane blocks, and is false when its message has ended.
func (l *lane) refill() bool {
	for {
		switch {
		case l.filled == 0 && len(l.rest) >= blockSize:
			whole := len(l.rest) &^ (blockSize - 1)
			l.set(l.rest[:whole])
			l.rest = l.rest[whole:]
			return true
		case len(l.rest) > 0:
			n := copy(l.part[l.filled:blockSize], l.rest)
			l.filled, l.rest = l.filled+n, l.rest[n:]
			if l.filled == blockSize {
				l.filled = 0
				l.set(l.part[:blockSize])
				return true
			}
		case l.padded:
			return false
		case l.source == nil:
			l.pad()
			return true
		default:
			piece, err := l.source.Next()
			if err == io.EOF {
				l.pad()
				return true
			}
			if l.err = err; err != nil {
				return false
			}
			l.rest, l.size = piece, l.size+uint64(len(piece))
		}
	}
}

// pad is FIPS 180-4, 5.1.1.
func (l *lane) pad() {
	end := blockSize
	if l.filled+1+8 > blockSize {
		end = 2 * blockSize
	}
	clear(l.part[l.filled:])
	l.part[l.filled] = 0x80
	binary.BigEndian.PutUint64(l.part[end-8:], l.size*8)
	l.set(l.part[:end])
	l.padded = true
}

func (l *lane) set(blocks []byte) { l.at, l.blocks = unsafe.SliceData(blocks), len(blocks)/blockSize }

// advance is past n blocks. A pointer behind the last one would point into what
// is none of ours.
func (l *lane) advance(n int) {
	if l.blocks -= n; l.blocks <= 0 {
		l.at, l.blocks = nil, 0
		return
	}
	l.at = (*byte)(unsafe.Add(unsafe.Pointer(l.at), n*blockSize))
}
