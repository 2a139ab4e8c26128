package sorted

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"

	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/internal/keyed"
)

// Writer writes a file.
type Writer struct {
	out     *bufio.Writer
	block   []byte
	first   []byte // the beginning of the block's first entry
	last    []byte
	index   []byte
	digest  *keyed.Hash
	ref     Ref
	blocks  uint32
	entries int
}

// NewWriter writes to w. The caller closes it after [Writer.Finish].
func NewWriter(w io.Writer) *Writer { return &Writer{out: bufio.NewWriterSize(w, 128<<10)} }

// Add appends an entry and says in which block it is. [File.Seek] finds entries
// only where they came in the order of their bytes.
func (w *Writer) Add(entry []byte) (block uint32, err error) {
	if len(entry) > maxEntry {
		return 0, fmt.Errorf("entry of %d bytes: %w", len(entry), ErrDamaged)
	}
	if len(w.block) >= blockLen {
		if err := w.flush(); err != nil {
			return 0, err
		}
	}
	shared := 0
	if len(w.block) == 0 {
		w.first = append(w.first[:0], entry[:min(len(entry), keyLen)]...)
	} else {
		shared = common(w.last, entry)
	}
	w.block = binary.AppendUvarint(w.block, uint64(shared))
	w.block = binary.AppendUvarint(w.block, uint64(len(entry)-shared))
	w.block = append(w.block, entry[shared:]...)
	w.last = append(w.last[:0], entry...)
	w.entries++
	return w.blocks, nil
}

// common is how many bytes a and b begin with alike.
func common(a, b []byte) int {
	n := min(len(a), len(b))
	i := 0
	for ; i+8 <= n && bytes.Equal(a[i:i+8], b[i:i+8]); i += 8 {
	}
	for i < n && a[i] == b[i] {
		i++
	}
	return i
}

func (w *Writer) flush() error {
	if len(w.block) == 0 {
		return nil
	}
	if err := w.keep(); err != nil {
		return err
	}
	sum := w.digest.Sum(uint64(w.blocks), w.block)
	w.index = binary.AppendUvarint(w.index, uint64(len(w.block)))
	w.index = append(append(w.index, sum[:]...), byte(len(w.first)))
	w.index = append(w.index, w.first...)
	w.ref.Index += int64(len(w.block))
	w.blocks++
	_, err := w.out.Write(w.block)
	w.block = w.block[:0]
	return err
}

// keep begins the index by its key.
func (w *Writer) keep() (err error) {
	if w.digest == nil {
		key := keyed.NewKey()
		w.index = append(w.index, key[:]...)
		w.digest, err = keyed.New(key)
	}
	return err
}

// Entries is how many were added.
func (w *Writer) Entries() int { return w.entries }

// Len is about how long the file is so far.
func (w *Writer) Len() int64 { return w.ref.Index + int64(len(w.block)) }

// Finish writes what is left. The name in the result is the caller's to set.
func (w *Writer) Finish() (Ref, error) {
	err := w.flush()
	if err == nil {
		err = w.keep()
	}
	if err != nil {
		return Ref{}, err
	}
	w.out.Write(w.index)
	if err := w.out.Flush(); err != nil {
		return Ref{}, err
	}
	sum := blake3.Sum256(w.index)
	w.ref.Size = w.ref.Index + int64(len(w.index))
	w.ref.BLAKE3 = hex.EncodeToString(sum[:])
	return w.ref, nil
}
