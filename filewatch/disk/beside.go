package disk

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync/atomic"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/disk/nbd"
)

// beside reads a disk's snapshot beside QEMU where many places are wanted at once:
// those of them that this host holds in its page cache are read from the raw image
// itself, which spares QEMU a request for each, and then QEMU is asked which of them
// it has copied for the snapshot. Only these, and those that are not in memory, are
// read from QEMU.
//
// What is read so is the snapshot's. QEMU lets a write to the disk begin when what it
// overwrites is in the snapshot's overlay, and not before (QEMU 7.2,
// block/copy-before-write.c, cbw_do_copy_before_write; discards and zeros go the same
// way). If a byte that was read is of a write after the snapshot, then that write had
// begun, so the overlay held the place; it loses nothing while there is a snapshot; and
// the question comes after the reading. Writes of before the snapshot had ended: the
// transaction that makes it waits for them.
type beside struct {
	*nbd.Client // of the snapshot
	image       *os.File
	asking      chan struct{} // closed once the next two are set
	ask         *nbd.Client   // of the same export, for nothing but depthContext
	err         error
	reads       besideReads
}

// besideReads counts the pieces that came from the image, and those that were read
// from there and had been copied.
type besideReads struct{ image, copied atomic.Int64 }

// besideOf is the reader of a disk; the image is closed by Close.
func besideOf(ctx context.Context, client *nbd.Client, image *os.File, socket, export string) *beside {
	b := &beside{Client: client, image: image, asking: make(chan struct{})}
	go func() {
		defer close(b.asking)
		b.ask, b.err = nbd.DialFor(ctx, socket, export, depthContext)
	}()
	return b
}

// Close lets go of what it reads from but the snapshot.
func (b *beside) Close() error {
	<-b.asking
	if b.ask != nil {
		b.ask.Close()
	}
	return b.image.Close()
}

// ReadMany fills each of bufs from the offset beside it, as [nbd.Client.ReadMany] does.
func (b *beside) ReadMany(bufs [][]byte, offs []int64) error {
	if <-b.asking; b.err != nil {
		return b.Client.ReadMany(bufs, offs)
	}
	missing := make([]bool, len(bufs)) // not read, or not of the snapshot
	first, end := b.Size, int64(0)
	for i, buf := range bufs {
		if off, n := offs[i], int64(len(buf)); off < 0 || n > b.Size || off > b.Size-n || !readInMemory(b.image, buf, off) {
			missing[i] = true
			continue
		}
		first, end = min(first, offs[i]), max(end, offs[i]+int64(len(buf)))
	}
	// Runs between the two offsets that are in the overlay.
	copied, err := runsOf(b.ask, depthContext, first, end, func(depth uint32) bool { return depth == 1 })
	if err != nil {
		return fmt.Errorf("ask what was copied: %w", err)
	}
	var again [][]byte
	var places []int64
	for i, buf := range bufs {
		switch {
		case missing[i]:
		case overlaps(copied, offs[i], int64(len(buf))):
			b.reads.copied.Add(1)
		default:
			b.reads.image.Add(1)
			continue
		}
		again, places = append(again, buf), append(places, offs[i])
	}
	return b.Client.ReadMany(again, places)
}

// overlaps says whether some of the bytes are in the runs.
func overlaps(runs []filewatch.Extent, off, length int64) bool {
	i, _ := slices.BinarySearchFunc(runs, off, func(r filewatch.Extent, off int64) int {
		if r.Physical+r.Length <= off {
			return -1
		}
		return 1
	})
	return i < len(runs) && runs[i].Physical < off+length
}
