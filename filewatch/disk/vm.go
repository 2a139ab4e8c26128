package disk

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch/disk/nbd"
	"github.com/plumbline-sec/plumbline/internal/qmp"
)

// Names of ours inside QEMU start like this, so that what a killed scan left
// behind can be told apart and taken away.
const namePrefix = "plumbline-"

// Block is one disk of a running machine.
type Block struct {
	Device   string // QEMU's name for it
	Node     string // of the block graph
	File     string // as QEMU opened it
	Format   string // raw, qcow2 ...
	ReadOnly bool
	Size     int64
}

// OpenVM opens the disks of a running machine as they are at one moment: a
// snapshot through QEMU's fleecing (a copy-before-write job into a temporary
// overlay, exported over NBD), which needs nothing from the guest and does not
// stop it. Close takes everything away again.
//
// QEMU has one NBD server, so while another user has it this fails.
func OpenVM(ctx context.Context, socket string) (*Set, error) {
	unlock, err := lockMachine(ctx, socket)
	if err != nil {
		return nil, err
	}
	s := &Set{closers: []func() error{unlock}}
	if err := s.openVM(ctx, socket); err != nil {
		s.Close()
		return nil, fmt.Errorf("disks of the machine behind %s: %w", socket, err)
	}
	return s, nil
}

func (s *Set) openVM(ctx context.Context, socket string) error {
	monitor, err := qmp.Dial(ctx, socket)
	if err != nil {
		return err
	}
	// The monitor serves one client at a time: hold it only to set up and, with
	// a connection of its own, to take down.
	defer monitor.Close()
	f := &fleece{monitor: monitor}
	if err := f.sweep(ctx); err != nil {
		return err
	}
	blocks, err := Blocks(ctx, monitor)
	if err != nil {
		return err
	}
	if len(blocks) == 0 {
		return errors.New("it has no disks")
	}
	dir, err := os.MkdirTemp("", namePrefix+"fleece-*")
	if err != nil {
		return err
	}
	s.closers = append(s.closers, func() error { return os.RemoveAll(dir) }, func() error { return takeDown(socket) })
	export, err := f.snapshot(ctx, dir, blocks)
	if err != nil {
		return err
	}
	for i, b := range blocks {
		client, err := nbd.Dial(ctx, export, exportName(i))
		if err != nil {
			return fmt.Errorf("disk %s: %w", b.Device, err)
		}
		s.closers = append(s.closers, client.Close)
		s.Disks = append(s.Disks, &Disk{client, b.Device, client.Size})
	}
	return nil
}

// takeDown removes the snapshot with a connection of its own.
func takeDown(socket string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	monitor, err := qmp.Dial(ctx, socket)
	if err != nil {
		return fmt.Errorf("take the snapshot away: %w", err)
	}
	defer monitor.Close()
	return (&fleece{monitor: monitor}).sweep(ctx)
}

// Blocks lists a machine's disks: everything with a medium but firmware flash
// and removable drives.
func Blocks(ctx context.Context, monitor *qmp.Client) ([]Block, error) {
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
	if err := monitor.Execute(ctx, "query-block", nil, &devices); err != nil {
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

func randomName() string {
	var b [6]byte
	rand.Read(b[:])
	return namePrefix + hex.EncodeToString(b[:])
}

// exportSocket is where QEMU serves the snapshot.
func exportSocket(dir string) string { return filepath.Join(dir, "nbd.sock") }
