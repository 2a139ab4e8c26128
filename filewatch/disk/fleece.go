package disk

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/plumbline-sec/plumbline/internal/qmp"
)

// fleece is the sequence of QMP commands around a snapshot (QEMU 7.2,
// docs/interop/live-block-operations.rst, "sync=none").
//
// Commands are sent together where they can be: QEMU carries them out in order, and
// one that builds on another that failed fails too. It reads a monitor's commands
// byte by byte, a few microseconds for each, so names are short.
type fleece struct {
	monitor *qmp.Client
	server  server
	layers  []layer // of the snapshot
}

// server says whose QEMU's only NBD server is.
type server byte

const (
	unknown server = iota
	ours           // it was started for this snapshot
	theirs
)

// sent are commands whose answers have not been waited for.
type sent []*qmp.Pending

func (s *sent) add(p *qmp.Pending) { *s = append(*s, p) }

// wait waits for all answers.
func (s *sent) wait(ctx context.Context) error {
	var errs []error
	for _, p := range *s {
		errs = append(errs, p.Wait(ctx, nil))
	}
	*s = nil
	return errors.Join(errs...)
}

type object = map[string]any

// layer is the overlay of one disk.
type layer struct {
	Block
	node string // of the overlay
}

// snapshot makes all disks readable as they are at one moment and returns the
// NBD socket. A read-only disk is exported as it is. t may be nil.
func (f *fleece) snapshot(ctx context.Context, place *scratch, blocks []Block, t *tracking) (string, error) {
	nodes := make([]string, len(blocks))
	for i, b := range blocks {
		if nodes[i] = b.Node; !b.ReadOnly {
			nodes[i] = namePrefix + randomText(3)
			f.layers = append(f.layers, layer{b, nodes[i]})
		}
	}
	layers := f.layers
	socket := place.socket()
	if err := f.overlays(ctx, layers, place); err != nil {
		return "", err
	}
	var last sent
	var actions []object
	for i := range layers {
		if t != nil {
			actions = append(actions, t.actions(layers[i].Block)...)
		}
		actions = append(actions, object{"type": "blockdev-backup", "data": object{
			"device": layers[i].Node, "target": layers[i].node, "sync": "none", "job-id": layers[i].node + "-job"}})
	}
	if len(actions) > 0 {
		last.add(f.monitor.Begin("transaction", object{"actions": actions}))
	}
	for i, node := range nodes {
		export := object{"type": "nbd", "id": namePrefix + exportName(i), "node-name": node, "name": exportName(i), "allocation-depth": true}
		if t != nil {
			export = t.export(export, blocks[i])
		}
		last.add(f.monitor.Begin("block-export-add", export))
	}
	return socket, last.wait(ctx)
}

// overlays puts an empty image over each disk, in a file of its own, and starts the
// NBD server. What is written to one need not survive this host: it is not flushed.
func (f *fleece) overlays(ctx context.Context, layers []layer, place *scratch) error {
	var all sent
	for i, l := range layers {
		path, err := place.overlay(exportName(i), l.Size)
		if err != nil {
			return errors.Join(err, all.wait(ctx))
		}
		all.add(f.monitor.Begin("blockdev-add", object{"driver": "qcow2", "node-name": l.node, "backing": l.Node,
			"file": object{"driver": "file", "filename": path, "locking": "off", "cache": object{"no-flush": true}}}))
	}
	// Should this process be killed, the server is known to be ours by a node of
	// ours beside it: see sweep.
	server := f.monitor.Begin("nbd-server-start", object{"addr": object{"type": "unix", "data": object{"path": place.socket()}}, "max-connections": 0})
	err := all.wait(ctx)
	serving := server.Wait(ctx, nil)
	if f.server = ours; gone(serving) {
		f.server = theirs
	}
	return errors.Join(err, serving)
}

const concluded = "concluded"

type job struct {
	ID     string `json:"id"`
	Type   string `json:"type"`
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

// seen is what QEMU has of ours.
type seen struct {
	nodes   []blockNode // all of them
	exports []export
	jobs    []job
}

// any says whether there is anything.
func (s *seen) any() bool { return len(s.exports) > 0 || len(s.jobs) > 0 || len(oursOf(s.nodes)) > 0 }

// look asks QEMU for the block nodes and whether anything of ours is there, and for
// the disks where blocks is not nil.
func (f *fleece) look(ctx context.Context, blocks *[]Block) (*seen, error) {
	var devices *qmp.Pending
	if blocks != nil {
		all, err := f.jobs(ctx)
		if err == nil {
			err = backedUp(all)
		}
		if err != nil {
			return nil, err
		}
		devices = f.monitor.Begin("query-block", nil)
	}
	exports := f.monitor.Begin("query-block-exports", nil)
	jobs := f.monitor.Begin("query-jobs", nil)
	nodes := f.monitor.Begin("query-named-block-nodes", object{"flat": true})
	s := &seen{}
	err := errors.Join(exports.Wait(ctx, &s.exports), jobs.Wait(ctx, &s.jobs), nodes.Wait(ctx, &s.nodes))
	s.exports, s.jobs = oursAmong(s.exports), slices.DeleteFunc(s.jobs, func(j job) bool { return !strings.HasPrefix(j.ID, namePrefix) })
	if blocks != nil && err == nil {
		*blocks, err = readBlocks(ctx, devices)
	}
	return s, err
}

// sweep takes away everything of ours: of this snapshot, or of one whose process
// was killed.
func (f *fleece) sweep(ctx context.Context) error {
	s, err := f.look(ctx, nil)
	if err != nil {
		return err
	}
	var ended sent
	if f.server == ours || f.server == unknown && (len(s.exports) > 0 || len(oursOf(s.nodes)) > 0) {
		// QEMU has one NBD server and does not say whose it is. Where something
		// of ours is left, it is ours, or it has not been started. It ends with
		// all exports.
		ended.add(f.monitor.Begin("nbd-server-stop", nil))
	}
	for _, j := range s.jobs {
		ended.add(f.end(j))
	}
	for _, p := range ended {
		if err := p.Wait(ctx, nil); err != nil && !gone(err) {
			return err
		}
	}
	if len(s.exports) > 0 {
		if err := f.sweepExports(ctx); err != nil {
			return err
		}
	}
	if len(s.jobs) > 0 {
		if err := f.sweepJobs(ctx); err != nil {
			return err
		}
	}
	return f.sweepNodes(ctx, oursOf(s.nodes))
}

type export struct {
	ID           string `json:"id"`
	ShuttingDown bool   `json:"shutting-down"`
}

// oursAmong are the exports that are ours.
func oursAmong(all []export) []export {
	return slices.DeleteFunc(all, func(e export) bool { return !strings.HasPrefix(e.ID, namePrefix) })
}

// unmake takes away what snapshot made, without a look at what there is. Where
// something is not as it was left, that is an error, and sweep goes on from there.
func (f *fleece) unmake(ctx context.Context) error {
	stopped := f.monitor.Begin("nbd-server-stop", nil)
	var ended sent
	var nodes []string
	for i := range f.layers {
		ended.add(f.monitor.Begin("job-cancel", object{"id": f.layers[i].node + "-job"}))
		nodes = append(nodes, f.layers[i].node)
	}
	err := ended.wait(ctx)
	if e := stopped.Wait(ctx, nil); e != nil {
		return errors.Join(err, e)
	}
	f.server = theirs // whoever starts one now
	if err == nil && len(f.layers) > 0 {
		err = f.sweepJobs(ctx)
	}
	if err != nil {
		return err
	}
	return f.sweepNodes(ctx, nodes)
}

// sweepExports ends our exports.
func (f *fleece) sweepExports(ctx context.Context) error {
	var patience patience
	for {
		var exports []export
		if err := f.monitor.Execute(ctx, "query-block-exports", nil, &exports); err != nil {
			return err
		}
		if exports = oursAmong(exports); len(exports) == 0 {
			return nil
		}
		for _, e := range exports {
			if !e.ShuttingDown {
				if err := f.do(ctx, "block-export-del", object{"id": e.ID, "mode": "hard"}); err != nil {
					return err
				}
			}
		}
		if err := patience.wait(ctx); err != nil {
			return err
		}
	}
}

// end begins to end a job, whatever its state.
func (f *fleece) end(j job) *qmp.Pending {
	if j.Status == concluded {
		return f.monitor.Begin("job-dismiss", object{"id": j.ID})
	}
	return f.monitor.Begin("job-cancel", object{"id": j.ID})
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
			if left++; j.Status == "aborting" || j.Status == "null" {
				continue
			}
			if err := f.end(j).Wait(ctx, nil); err != nil && !gone(err) {
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

// sweepNodes removes our overlays. Those of earlier versions had the files below them
// as nodes of their own, whose names end with "-file"; these go last.
func (f *fleece) sweepNodes(ctx context.Context, nodes []string) error {
	var removed sent
	for _, files := range []bool{false, true} {
		for _, name := range nodes {
			if strings.HasSuffix(name, "-file") == files {
				removed.add(f.monitor.Begin("blockdev-del", object{"node-name": name}))
			}
		}
	}
	return removed.wait(ctx)
}
