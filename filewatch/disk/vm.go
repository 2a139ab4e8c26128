package disk

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/disk/nbd"
	"github.com/plumbline-sec/plumbline/internal/qmp"
)

// Names of ours inside QEMU start like this, so that what a killed scan left
// behind can be told apart and taken away.
const namePrefix = "plumbline-"

// Block is one disk of a running machine.
type Block struct {
	Device   string `json:"device"` // QEMU's name for it
	Node     string `json:"node"`   // of the block graph
	File     string `json:"file"`   // as QEMU opened it
	Format   string `json:"format"` // raw, qcow2 ...
	ReadOnly bool   `json:"read_only,omitempty"`
	Size     int64  `json:"size"`
}

// Running is a machine whose disks are opened while it runs.
type Running struct {
	// Socket is that of its monitor (QMP).
	Socket string
	// Monitor, when not nil, is held while the monitor is, and never while another
	// scan of the disks is waited for: that may take long, and others want the
	// monitor for other things.
	Monitor sync.Locker
}

// turn takes the monitor.
func (r Running) turn() (done func()) {
	if r.Monitor == nil {
		return func() {}
	}
	r.Monitor.Lock()
	return r.Monitor.Unlock
}

// Open is [OpenVM].
func (r Running) Open(ctx context.Context) (*Set, error) { return r.open(ctx, nil) }

// OpenVM opens the disks of a running machine as they are at one moment: a
// snapshot through QEMU's fleecing (a copy-before-write job into a temporary
// overlay, exported over NBD), which needs nothing from the guest and does not
// stop it. Close takes everything away again.
//
// QEMU has one NBD server, so while another user has it this fails.
func OpenVM(ctx context.Context, socket string) (*Set, error) {
	return Running{Socket: socket}.Open(ctx)
}

// open takes the lock and the snapshot; t may be nil.
func (r Running) open(ctx context.Context, t *tracking) (*Set, error) {
	unlock, err := lockMachine(ctx, r.Socket)
	if err != nil {
		return nil, err
	}
	s := &Set{closers: []func() error{unlock}, tracking: t}
	if err := s.openVM(ctx, r); err != nil {
		s.Close() // takes the monitor, too
		return nil, fmt.Errorf("disks of the machine behind %s: %w", r.Socket, inUse(err))
	}
	return s, nil
}

func (s *Set) openVM(ctx context.Context, r Running) error {
	defer r.turn()()
	monitor, err := qmp.Dial(ctx, r.Socket)
	if err != nil {
		return err
	}
	// The monitor serves one client at a time: hold it only to set up and, with
	// a connection of its own, to take down.
	defer monitor.Close()
	f := &fleece{monitor: monitor}
	var blocks []Block
	ours, err := f.look(ctx, &blocks)
	if err == nil && ours.any() {
		if err = f.sweep(ctx); err == nil {
			ours, err = f.look(ctx, &blocks)
		}
	}
	if err != nil {
		return err
	}
	if len(blocks) == 0 {
		return errors.New("it has no disks")
	}
	if s.tracking != nil {
		if err := s.tracking.prepare(ctx, f, ours.nodes, blocks); err != nil {
			return err
		}
		if s.tracking.same {
			s.Same, s.Track = true, s.tracking.last
			return nil
		}
	}
	place, err := scratchFor(monitor.PID())
	if err != nil {
		return err
	}
	s.closers = append(s.closers, place.clear, func() error {
		s.Release()
		close(s.released.decided)
		return <-s.released.done
	})
	s.takeDown = func(decided <-chan struct{}) error { return s.remove(r, *f, decided) }
	export, err := f.snapshot(ctx, place, blocks, s.tracking)
	if err == nil {
		err = s.dial(ctx, export, blocks, monitor.PID())
	}
	return err
}

// dial connects to the exports of a snapshot that the QEMU of a process made.
func (s *Set) dial(ctx context.Context, export string, blocks []Block, pid int) error {
	changed := map[int][]filewatch.Extent{}
	for i, b := range blocks {
		var contexts []string
		if s.tracking != nil {
			contexts = s.tracking.contexts(b)
		}
		client, err := nbd.Dial(ctx, export, exportName(i), contexts...)
		if err != nil {
			return fmt.Errorf("disk %s: %w", b.Device, err)
		}
		s.closers = append(s.closers, client.Close)
		s.Disks = append(s.Disks, &Disk{client, b.Device, client.Size})
		if image := imageOf(pid, b); image != nil {
			near := besideOf(ctx, client, image, export, exportName(i))
			s.closers = append(s.closers, near.Close)
			s.Disks[i].ReaderAt = near
		}
		changed[i] = nil
		for _, c := range contexts {
			if changed[i], err = dirtyRuns(client, c, func(flags uint32) bool { return flags&nbd.Dirty != 0 }); err != nil {
				return fmt.Errorf("dirty bitmap of disk %s: %w", b.Device, err)
			}
		}
	}
	if s.tracking != nil {
		s.Track, s.Lost = s.tracking.now, s.tracking.lost
		if s.Lost == "" {
			s.Changed = changed
		}
	}
	return nil
}

// remove removes the snapshot that made did or tried to make and, once it is decided
// which, a bitmap. Nobody else need wait long for the monitor until it is decided.
func (s *Set) remove(r Running, made fleece, decided <-chan struct{}) error {
	finished := s.tracking == nil
	finish := func(ctx context.Context, f *fleece) error {
		finished = true
		if err := s.tracking.finish(ctx, f); err != nil {
			return fmt.Errorf("dirty bitmaps: %w", err)
		}
		return nil
	}
	err := r.monitored(func(ctx context.Context, f *fleece) error {
		f.server, f.layers = made.server, made.layers
		if made.server != ours || f.unmake(ctx) != nil {
			if err := f.sweep(ctx); err != nil {
				return err
			}
		}
		if finished {
			return nil
		}
		select {
		case <-decided:
			return finish(ctx, f)
		case <-time.After(shortly):
			return nil
		}
	})
	if err != nil || finished {
		return err
	}
	<-decided
	return r.monitored(finish)
}

// shortly is how long a connection is kept for what is mostly decided by then.
const shortly = 5 * time.Millisecond

// monitored runs fn with a connection of its own.
func (r Running) monitored(fn func(context.Context, *fleece) error) error {
	defer r.turn()()
	ctx, cancel := context.WithTimeout(context.Background(), removing)
	defer cancel()
	monitor, err := qmp.Dial(ctx, r.Socket)
	if err != nil {
		return fmt.Errorf("take the snapshot away: %w", err)
	}
	defer monitor.Close()
	return fn(ctx, &fleece{monitor: monitor})
}

// removing is how long QEMU may take to remove what was made.
const removing = 30 * time.Second

// Blocks lists a machine's disks: everything with a medium but firmware flash
// and removable drives.
func Blocks(ctx context.Context, monitor *qmp.Client) ([]Block, error) {
	return readBlocks(ctx, monitor.Begin("query-block", nil))
}

// readBlocks reads the answer to query-block.
func readBlocks(ctx context.Context, query *qmp.Pending) ([]Block, error) {
	var devices []struct {
		Device    string `json:"device"`
		QDev      string `json:"qdev"`
		Removable bool   `json:"removable"`
		Inserted  *struct {
			Node  string `json:"node-name"`
			File  string `json:"file"`
			Drv   string `json:"drv"`
			RO    bool   `json:"ro"`
			Image struct {
				Size int64 `json:"virtual-size"`
			} `json:"image"`
		} `json:"inserted"`
	}
	if err := query.Wait(ctx, &devices); err != nil {
		return nil, err
	}
	var out []Block
	for _, d := range devices {
		if d.Inserted == nil || d.Removable || strings.HasPrefix(d.Device, "pflash") || strings.Contains(d.QDev, ".flash") {
			continue
		}
		name := d.Device
		if name == "" {
			name = d.QDev
		}
		out = append(out, Block{name, d.Inserted.Node, d.Inserted.File, d.Inserted.Drv, d.Inserted.RO, d.Inserted.Image.Size})
	}
	return out, nil
}

func exportName(i int) string { return fmt.Sprintf("disk%d", i) }

func randomName() string { return namePrefix + randomText(6) }

// randomText is that many random bytes in hex.
func randomText(n int) string {
	b := make([]byte, n)
	rand.Read(b)
	return hex.EncodeToString(b)
}
