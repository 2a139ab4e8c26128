package disk

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/zeebo/blake3"
)

// Keeper is one that keeps bitmaps in a running machine for as long as it runs, and
// files in a directory of its own. What one leaves that was killed, in either, is the
// next one's to take away ([Running.Sweep]): keepers have few names, and each is used again.
type Keeper struct {
	// Dir is the directory.
	Dir string
	// Track has the name, and no bitmap.
	Track        Track
	root, socket string
	occupy       *os.File
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
		k := keeper(root, real, i)
		if has, err := k.take(); err != nil {
			return nil, err
		} else if !has {
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

// keeper is the one of a number, without its name.
func keeper(root, socket string, number int) *Keeper {
	sum := blake3.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%d", root, socket, number))
	k := &Keeper{Track: Track{ID: hex.EncodeToString(sum[:5])}, root: root, socket: socket}
	k.Dir = filepath.Join(root, k.Track.ID)
	return k
}

// take takes the name, unless another has it: whoever has it holds a lock, which ends with
// its process, however that ends.
func (k *Keeper) take() (has bool, err error) {
	if err := os.MkdirAll(k.Dir, 0o700); err != nil {
		return false, err
	}
	k.occupy, err = occupy(k.Dir)
	return k.occupy != nil, err
}

// Sweep takes away what others of k's root left that were killed, of whose names none was
// used since; after a scan, which ended what theirs had in use. Those under other roots
// have other names, which k cannot know: the bitmaps of one that was killed and of one that
// runs look the same there, and are left.
func (r Running) Sweep(ctx context.Context, k *Keeper) error {
	return r.between(ctx, func(f *fleece, nodes []blockNode) (err error) {
		for i := range maxKeepers {
			if other := keeper(k.root, k.socket, i); other.Dir != k.Dir {
				err = errors.Join(err, other.sweep(ctx, f, nodes))
			}
		}
		return err
	})
}

// sweep takes away what is left of a keeper that does not run.
func (k *Keeper) sweep(ctx context.Context, f *fleece, nodes []blockNode) error {
	t := &tracking{last: k.Track, lost: "no longer wanted"}
	if _, err := os.Lstat(k.Dir); errors.Is(err, os.ErrNotExist) && len(t.bitmaps(nodes)) == 0 {
		return nil
	}
	if has, err := k.take(); !has {
		return err
	}
	// Who had the name may have come to its own end meanwhile.
	nodes, err := f.nodes(ctx)
	if err == nil {
		err = t.discard(ctx, f, t.bitmaps(nodes))
	}
	return errors.Join(err, k.Close())
}

// Close gives the name back and removes the directory.
func (k *Keeper) Close() error {
	return errors.Join(removeAll(k.Dir, ""), os.Remove(k.Dir), k.occupy.Close())
}
