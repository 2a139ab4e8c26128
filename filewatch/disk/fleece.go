package disk

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/plumbline-sec/plumbline/internal/qmp"
)

// fleece is the sequence of QMP commands around a snapshot (QEMU 7.2,
// docs/interop/live-block-operations.rst, "sync=none").
type fleece struct {
	monitor *qmp.Client
	// others says that QEMU's NBD server is somebody else's.
	others bool
}

// commands run side by side: QEMU carries them out one after the other, and nobody
// waits for the answer to one before the next is sent.
type commands struct {
	wg  sync.WaitGroup
	mu  sync.Mutex
	err error
}

func (c *commands) run(command func() error) {
	c.wg.Go(func() {
		err := command()
		c.mu.Lock()
		defer c.mu.Unlock()
		c.err = errors.Join(c.err, err)
	})
}

func (c *commands) wait() error {
	c.wg.Wait()
	return c.err
}

type object = map[string]any

// snapshot makes all disks readable as they are at one moment and returns the
// NBD socket. A read-only disk is exported as it is. t may be nil.
func (f *fleece) snapshot(ctx context.Context, place *scratch, blocks []Block, t *tracking) (string, error) {
	nodes := make([]string, len(blocks))
	socket := place.socket()
	var ready commands
	// A server is known to be ours by a node of ours beside it: see sweep.
	var once sync.Once
	serve := func() {
		once.Do(func() {
			ready.run(func() error {
				err := f.do(ctx, "nbd-server-start", object{"addr": object{"type": "unix", "data": object{"path": socket}}, "max-connections": 0})
				f.others = gone(err)
				return err
			})
		})
	}
	for i, b := range blocks {
		nodes[i] = b.Node
		if b.ReadOnly {
			continue
		}
		nodes[i] = randomName()
		ready.run(func() error {
			if err := f.overlay(ctx, nodes[i], place, exportName(i)+".qcow2", b, &ready, serve); err != nil {
				return fmt.Errorf("disk %s: %w", b.Device, err)
			}
			return nil
		})
	}
	if !slices.ContainsFunc(blocks, func(b Block) bool { return !b.ReadOnly }) {
		serve()
	}
	if err := ready.wait(); err != nil {
		return "", err
	}
	var actions []object
	for i, b := range blocks {
		if b.ReadOnly {
			continue
		}
		if t != nil {
			actions = append(actions, t.actions(b)...)
		}
		actions = append(actions, object{"type": "blockdev-backup", "data": object{
			"device": b.Node, "target": nodes[i], "sync": "none", "job-id": nodes[i] + "-job"}})
	}
	if len(actions) > 0 {
		if err := f.do(ctx, "transaction", object{"actions": actions}); err != nil {
			return "", err
		}
	}
	for i, node := range nodes {
		export := object{"type": "nbd", "id": namePrefix + exportName(i), "node-name": node, "name": exportName(i), "writable": false}
		if t != nil {
			export = t.export(export, blocks[i])
		}
		if err := f.do(ctx, "block-export-add", export); err != nil {
			return "", fmt.Errorf("disk %s: %w", blocks[i].Device, err)
		}
	}
	return socket, nil
}

// overlay makes an empty qcow2 over a disk in a file of its own. What nothing waits
// for goes to later; begun is called once there is a node.
func (f *fleece) overlay(ctx context.Context, node string, place *scratch, name string, b Block, later *commands, begun func()) error {
	path, err := place.file(name)
	if err != nil {
		return err
	}
	file := node + "-file"
	if err := f.do(ctx, "blockdev-add", object{"driver": "file", "node-name": file, "filename": path, "locking": "off"}); err != nil {
		return err
	}
	begun()
	if err := f.create(ctx, node, object{"driver": "qcow2", "file": file, "size": b.Size}, later); err != nil {
		return err
	}
	return f.do(ctx, "blockdev-add", object{"driver": "qcow2", "node-name": node, "file": file, "backing": b.Node})
}

// create runs a blockdev-create job to its end.
func (f *fleece) create(ctx context.Context, node string, options object, later *commands) error {
	job := node + "-create"
	if err := f.do(ctx, "blockdev-create", object{"job-id": job, "options": options}); err != nil {
		return err
	}
	var patience patience
	for {
		jobs, err := f.jobs(ctx)
		if err != nil {
			return err
		}
		for _, j := range jobs {
			if j.ID != job || j.Status != "concluded" {
				continue
			}
			later.run(func() error { return f.do(ctx, "job-dismiss", object{"id": job}) })
			if j.Error != "" {
				return errors.New(j.Error)
			}
			return nil
		}
		if err := patience.wait(ctx); err != nil {
			return err
		}
	}
}

type job struct {
	ID     string `json:"id"`
	Status string `json:"status"`
	Error  string `json:"error"`
}

func (f *fleece) jobs(ctx context.Context) ([]job, error) {
	var jobs []job
	err := f.monitor.Execute(ctx, "query-jobs", nil, &jobs)
	return jobs, err
}

func (f *fleece) do(ctx context.Context, command string, arguments object) error {
	if arguments == nil {
		return f.monitor.Execute(ctx, command, nil, nil)
	}
	return f.monitor.Execute(ctx, command, arguments, nil)
}

// patience waits between looks at what QEMU does in its own time: shortly at first,
// because most of it is over at once. ctx bounds the waiting.
type patience struct{ next time.Duration }

func (p *patience) wait(ctx context.Context) error {
	p.next = min(max(2*p.next, 50*time.Microsecond), 5*time.Millisecond)
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(p.next):
		return nil
	}
}

// look asks QEMU at once for the block nodes, for the disks, and whether anything of
// ours is left of a scan that was killed.
func (f *fleece) look(ctx context.Context) (nodes []blockNode, blocks []Block, left bool, err error) {
	var all commands
	var exports []export
	var jobs []job
	all.run(func() (err error) { nodes, err = f.nodes(ctx); return err })
	all.run(func() (err error) { exports, err = f.exports(ctx); return err })
	all.run(func() (err error) { jobs, err = f.jobs(ctx); return err })
	all.run(func() (err error) { blocks, err = Blocks(ctx, f.monitor); return err })
	if err := all.wait(); err != nil {
		return nil, nil, false, err
	}
	left = len(exports) > 0 || len(oursOf(nodes)) > 0 ||
		slices.ContainsFunc(jobs, func(j job) bool { return strings.HasPrefix(j.ID, namePrefix) })
	return nodes, blocks, left, nil
}

// sweep takes away everything of ours: of this snapshot, or of one whose process
// was killed.
func (f *fleece) sweep(ctx context.Context) error {
	all, err := f.nodes(ctx)
	if err != nil {
		return err
	}
	nodes := oursOf(all)
	exported, err := f.sweepExports(ctx)
	if err != nil {
		return err
	}
	if (exported || len(nodes) > 0) && !f.others {
		// QEMU has one NBD server and does not say whose it is. Where something
		// of ours is left, it is ours, or it has not been started.
		if err := f.do(ctx, "nbd-server-stop", nil); err != nil && !gone(err) {
			return err
		}
	}
	if err := f.sweepJobs(ctx); err != nil {
		return err
	}
	return f.sweepNodes(ctx, nodes)
}

type export struct {
	ID           string `json:"id"`
	ShuttingDown bool   `json:"shutting-down"`
}

// exports are ours.
func (f *fleece) exports(ctx context.Context) ([]export, error) {
	var all []export
	err := f.monitor.Execute(ctx, "query-block-exports", nil, &all)
	return slices.DeleteFunc(all, func(e export) bool { return !strings.HasPrefix(e.ID, namePrefix) }), err
}

// sweepExports ends our exports and says whether there were any.
func (f *fleece) sweepExports(ctx context.Context) (ours bool, err error) {
	var patience patience
	for {
		exports, err := f.exports(ctx)
		if err != nil || len(exports) == 0 {
			return ours, err
		}
		ours = true
		for _, e := range exports {
			if !e.ShuttingDown {
				if err := f.do(ctx, "block-export-del", object{"id": e.ID, "mode": "hard"}); err != nil {
					return ours, err
				}
			}
		}
		if err := patience.wait(ctx); err != nil {
			return ours, err
		}
	}
}

func (f *fleece) sweepJobs(ctx context.Context) error {
	var patience patience
	for {
		jobs, err := f.jobs(ctx)
		if err != nil {
			return err
		}
		left := 0
		for _, j := range jobs {
			if !strings.HasPrefix(j.ID, namePrefix) {
				continue
			}
			left++
			switch j.Status {
			case "concluded":
				err = f.do(ctx, "job-dismiss", object{"id": j.ID})
			case "aborting", "null":
			default:
				err = f.do(ctx, "job-cancel", object{"id": j.ID})
			}
			if err != nil && !gone(err) {
				return err
			}
		}
		if left == 0 {
			return nil
		}
		if err := patience.wait(ctx); err != nil {
			return err
		}
	}
}

// gone says that QEMU no longer knows what a command was about: it went away
// between the look and the command.
func gone(err error) bool {
	var e *qmp.Error
	return errors.As(err, &e)
}

// blockNode is part of QEMU's BlockDeviceInfo (qapi/block-core.json, 7.2).
type blockNode struct {
	Name    string   `json:"node-name"`
	Bitmaps []bitmap `json:"dirty-bitmaps"`
}

func (f *fleece) nodes(ctx context.Context) ([]blockNode, error) {
	var nodes []blockNode
	err := f.monitor.Execute(ctx, "query-named-block-nodes", object{"flat": true}, &nodes)
	return nodes, err
}

// oursOf are the names of the nodes that are ours.
func oursOf(nodes []blockNode) []string {
	var ours []string
	for _, n := range nodes {
		if strings.HasPrefix(n.Name, namePrefix) {
			ours = append(ours, n.Name)
		}
	}
	return ours
}

// sweepNodes removes our overlays, then the files below them.
func (f *fleece) sweepNodes(ctx context.Context, nodes []string) error {
	for _, files := range []bool{false, true} {
		for _, name := range nodes {
			if strings.HasSuffix(name, "-file") != files {
				continue
			}
			if err := f.do(ctx, "blockdev-del", object{"node-name": name}); err != nil {
				return err
			}
		}
	}
	return nil
}
