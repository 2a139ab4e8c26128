// Package sorted keeps many byte strings in a file of small blocks, so that a few
// of them can be read without the rest.
//
// A file is blocks of about 2 KiB, then their index. Each block has a digest in
// the index, the index has one in the file's [Ref], and the ref is kept elsewhere:
// what is damaged, cut or exchanged is found when it is read, not before. This is
// no defence against someone who may write both.
//
// Within a block an entry is: how many of its first bytes are those of the entry
// before (uvarint), how many follow (uvarint), and these. The index has a random key,
// then for each block its length (uvarint), its digest under the key and its number
// (internal/keyed), and the beginning of its first entry with the length before it
// (1 byte).
package sorted

import (
	"errors"

	"github.com/plumbline-sec/plumbline/internal/keyed"
)

// ErrDamaged: a file is not what was written.
var ErrDamaged = errors.New("damaged")

const (
	blockLen  = 2048     // before the entry that fills it
	maxEntry  = 65 << 20 // longer than any record
	digestLen = keyed.Size
	keyLen    = 24 // of a block's first entry in the index
)

// Ref names a file that was written whole.
type Ref struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
	// Index is where the index begins, BLAKE3 its digest in hex.
	Index  int64  `json:"index"`
	BLAKE3 string `json:"blake3"`
}
