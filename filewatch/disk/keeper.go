package disk

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/zeebo/blake3"
)

// Keeper is one that keeps bitmaps in a running machine for as long as it runs, and
// files in a directory of its own. What one leaves that was killed, in either, is the
// next one's to take away: keepers have few names, and each is used again.
type Keeper struct {
	// Dir is the directory.
	Dir string
	// Track has the name, and no bitmap.
	Track  Track
	occupy *os.File
}

// maxKeepers bounds the keepers of one machine.
const maxKeepers = 16

// ErrKeepers: too many already keep bitmaps in the machine.
var ErrKeepers = errors.New("too many watch the machine's disks already")

// NewKeeper takes the first name that nobody has, with an empty directory under root.
func NewKeeper(root, socket string) (*Keeper, error) {
	real, err := filepath.EvalSymlinks(socket)
	if err == nil {
		real, err = filepath.Abs(real)
	}
	if err == nil {
		root, err = filepath.Abs(root)
	}
	if err != nil {
		return nil, err
	}
	for i := range maxKeepers {
		sum := blake3.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%d", root, real, i))
		k := &Keeper{Track: Track{ID: hex.EncodeToString(sum[:5])}}
		k.Dir = filepath.Join(root, k.Track.ID)
		if err := os.MkdirAll(k.Dir, 0o700); err != nil {
			return nil, err
		}
		if k.occupy, err = occupy(k.Dir); err != nil {
			return nil, err
		}
		if k.occupy == nil {
			continue
		}
		if err := removeAll(k.Dir, ""); err != nil {
			k.occupy.Close()
			return nil, err
		}
		return k, nil
	}
	return nil, ErrKeepers
}

// Close gives the name back and removes the directory.
func (k *Keeper) Close() error {
	return errors.Join(removeAll(k.Dir, ""), os.Remove(k.Dir), k.occupy.Close())
}
