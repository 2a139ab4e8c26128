package disk

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/disk/nbd"
	"github.com/plumbline-sec/plumbline/internal/qmp"
)

// Track is what is kept between two scans of one running machine: the name of the
// dirty bitmap in which QEMU collects, on each disk, what is written after a
// scan's snapshot.
//
// The bitmaps are QEMU's word. They live in its memory only: nothing is added to
// an image, and a QEMU that ended takes them along, so that what was done to an
// image behind its back is never taken for nothing.
type Track struct {
	// ID keeps the bitmaps of different keepers of one machine apart: lower-case
	// letters and digits.
	ID string `json:"id"`
	// Bitmap is the name of the bitmap since the last scan, "" for none.
	Bitmap string `json:"bitmap"`
	// Disks are as they were at the last scan.
	Disks []Block `json:"disks"`
}

func (t *Track) prefix() string { return namePrefix + t.ID + "-" }

// OpenVMSince is [OpenVM] that tells what changed since the scan that left last
// behind, and leaves behind a Track for the next one. Where the answer is not
// certain, Set.Lost says why and Set.Changed is nil.
//
// A scan that came to its end calls [Set.Keep] once what it found is stored; else
// Close lets last count on, so that nothing is missed.
func OpenVMSince(ctx context.Context, socket string, last Track) (*Set, error) {
	return Running{Socket: socket}.OpenSince(ctx, last)
}

// OpenSince is [OpenVMSince].
func (r Running) OpenSince(ctx context.Context, last Track) (*Set, error) {
	return r.open(ctx, &tracking{last: last})
}

// OpenVMChanged is [OpenVMSince] that makes no snapshot where QEMU has nothing in
// the dirty bitmaps: then everything is as it was at the last scan, and Set.Same
// says so. The bitmaps go on counting for whoever comes next.
func OpenVMChanged(ctx context.Context, socket string, last Track) (*Set, error) {
	return Running{Socket: socket}.OpenChanged(ctx, last)
}

// OpenChanged is [OpenVMChanged].
func (r Running) OpenChanged(ctx context.Context, last Track) (*Set, error) {
	return r.open(ctx, &tracking{last: last, onlyChanged: true})
}

// Keep makes Close let go of the last bitmap: the scan is stored with Set.Track.
func (s *Set) Keep() {
	if s.tracking != nil {
		s.tracking.kept = true
	}
}

// Basis is the moment that a scan which is interrupted can be gone on with from:
// that of the last scan where what changed since is known, else this one.
func (s *Set) Basis() Track {
	if s.Lost == "" {
		return s.tracking.last
	}
	return s.Track
}

// KeepBasis makes Close let QEMU collect what is written after [Set.Basis].
func (s *Set) KeepBasis() {
	if s.tracking != nil && s.Lost != "" {
		s.tracking.kept = true
	}
}

// Drop makes Close let go of all bitmaps: nothing builds on this scan or the last
// one.
func (s *Set) Drop() {
	if s.tracking != nil {
		s.tracking.drop = true
	}
}

// tracking is the bitmaps of one scan.
type tracking struct {
	last Track
	now  Track
	lost string
	kept bool
	drop bool
	// onlyChanged has a scan without changes make no snapshot, which it does where
	// same says that there are none.
	onlyChanged bool
	same        bool
}

// bitmap is part of QEMU's BlockDirtyInfo (qapi/block-core.json, 7.2).
type bitmap struct {
	Name         string `json:"name"`
	Recording    bool   `json:"recording"`
	Busy         bool   `json:"busy"`
	Inconsistent bool   `json:"inconsistent"`
	Dirty        *int64 `json:"count"` // bytes
}

// bitmaps gives our bitmaps by the block node they are on.
func (t *tracking) bitmaps(nodes []blockNode) map[string][]bitmap {
	out := map[string][]bitmap{}
	for _, n := range nodes {
		for _, b := range n.Bitmaps {
			if strings.HasPrefix(b.Name, t.last.prefix()) {
				out[n.Name] = append(out[n.Name], b)
			}
		}
	}
	return out
}

// prepare finds out whether the last scan's bitmaps are whole, and mends what a
// scan that was killed left behind.
func (t *tracking) prepare(ctx context.Context, f *fleece, nodes []blockNode, blocks []Block) (err error) {
	t.now = Track{ID: t.last.ID, Disks: blocks, Bitmap: t.last.prefix() + randomText(6)}
	found := t.bitmaps(nodes)
	switch {
	case t.last.Bitmap == "":
		t.lost = "there is no earlier scan of the running machine"
	case !slices.Equal(blocks, t.last.Disks):
		t.lost = "the machine's disks are not those of the last scan"
	case !slices.ContainsFunc(blocks, func(b Block) bool { return !b.ReadOnly }):
		t.lost = "all disks are read-only: nothing tells whether the last scan was of the same QEMU"
	}
	for _, b := range blocks {
		if b.ReadOnly || t.lost != "" {
			continue
		}
		if t.lost, err = t.mend(ctx, f, b.Node, found[b.Node]); err != nil {
			return err
		}
	}
	t.same = t.onlyChanged && t.lost == "" && t.untouched(blocks, found)
	if !t.same && t.lost == "" {
		t.lost = exportsBitmaps(f.monitor.Version)
	}
	return t.discard(ctx, f, found)
}

// ErrTooOld: this QEMU does not show what is written to its disks.
var ErrTooOld = errors.New("QEMU is too old to watch its disks")

// ShowsChanges fails with [ErrTooOld] where QEMU cannot show what was written since the
// last scan, so that each would be one of everything.
func (r Running) ShowsChanges(ctx context.Context) error {
	defer r.turn()()
	monitor, err := qmp.Dial(ctx, r.Socket)
	if err != nil {
		return err
	}
	defer monitor.Close()
	if lost := exportsBitmaps(monitor.Version); lost != "" {
		return fmt.Errorf("%w: %s", ErrTooOld, lost)
	}
	return nil
}

// exportsBitmaps says why a QEMU cannot show a disk's bitmap beside a snapshot of the
// disk, which is another node: it takes the bitmap's node since 7.1
// (qapi/block-export.json, BlockExportOptionsNbd, bitmaps).
func exportsBitmaps(v qmp.Version) (lost string) {
	if v.Major > 7 || v.Major == 7 && v.Minor >= 1 {
		return ""
	}
	return fmt.Sprintf("QEMU %d.%d does not show what was written, 7.1 and later do", v.Major, v.Minor)
}

// mend leaves the last bitmap of a node recording, or says why it is lost.
func (t *tracking) mend(ctx context.Context, f *fleece, node string, found []bitmap) (lost string, err error) {
	i := slices.IndexFunc(found, func(b bitmap) bool { return b.Name == t.last.Bitmap })
	switch {
	case i < 0:
		return "QEMU's dirty bitmap is gone: QEMU was started anew, the disk was exchanged, or someone removed it", nil
	case found[i].Inconsistent:
		return "QEMU's dirty bitmap is inconsistent: QEMU ended without saving it", nil
	case found[i].Busy:
		return "QEMU's dirty bitmap is in use by someone else", nil
	case found[i].Recording:
		return "", nil
	}
	// A scan was killed: what was written after its snapshot is in the bitmap
	// that took over at that moment.
	after := slices.IndexFunc(found, func(b bitmap) bool { return b.Recording && !b.Busy && !b.Inconsistent })
	if after < 0 {
		return "QEMU's dirty bitmap was not recording", nil
	}
	return "", f.do(ctx, "transaction", object{"actions": takeBack(node, t.last.Bitmap, found[after].Name)})
}

// untouched says that nothing is in the last bitmaps, which were all counting when
// they were looked at. QEMU tells of one disk after the other; a bitmap only gains,
// so at the first look all of them had nothing.
func (t *tracking) untouched(blocks []Block, found map[string][]bitmap) bool {
	return !slices.ContainsFunc(blocks, func(b Block) bool {
		return !b.ReadOnly && !slices.ContainsFunc(found[b.Node], func(b bitmap) bool {
			return b.Name == t.last.Bitmap && b.Recording && b.Dirty != nil && *b.Dirty == 0
		})
	})
}

// takeBack has a bitmap count on as if it had never been relieved by next.
func takeBack(node, name, next string) []object {
	return []object{
		{"type": "block-dirty-bitmap-merge", "data": object{"node": node, "target": name, "bitmaps": []string{next}}},
		{"type": "block-dirty-bitmap-enable", "data": object{"node": node, "name": name}},
	}
}

// discard removes our bitmaps but the last one, where it counts, and those that
// someone else uses, which a later scan removes.
func (t *tracking) discard(ctx context.Context, f *fleece, found map[string][]bitmap) error {
	for node, list := range found {
		for _, b := range list {
			if b.Busy || t.lost == "" && b.Name == t.last.Bitmap {
				continue
			}
			if err := f.do(ctx, "block-dirty-bitmap-remove", object{"node": node, "name": b.Name}); err != nil {
				return fmt.Errorf("remove dirty bitmap %s: %w", b.Name, err)
			}
		}
	}
	return nil
}

// actions relieve the last bitmap of a disk by the next one, in the transaction
// that makes the snapshot.
func (t *tracking) actions(b Block) []object {
	out := []object{{"type": "block-dirty-bitmap-add", "data": object{"node": b.Node, "name": t.now.Bitmap, "granularity": granularity(b.Size)}}}
	if t.lost == "" {
		out = append(out, object{"type": "block-dirty-bitmap-disable", "data": object{"node": b.Node, "name": t.last.Bitmap}})
	}
	return out
}

// granularity is how many bytes one bit stands for: a block of a file system
// where the bitmap does not become too large by it (8 MiB, of QEMU's memory).
func granularity(size int64) int64 {
	g := int64(4096)
	for size/g > 1<<26 {
		g *= 2
	}
	return g
}

// export adds the bitmap to an export's arguments.
func (t *tracking) export(arguments object, b Block) object {
	if t.lost == "" && !b.ReadOnly {
		arguments["bitmaps"] = []object{{"node": b.Node, "name": t.last.Bitmap}}
	}
	return arguments
}

// contexts are the metadata contexts of a disk's export.
func (t *tracking) contexts(b Block) []string {
	if t.lost != "" || b.ReadOnly {
		return nil
	}
	return []string{"qemu:dirty-bitmap:" + t.last.Bitmap}
}

// finish lets go of one of the two bitmaps of each disk once nothing uses them.
func (t *tracking) finish(ctx context.Context, f *fleece) error {
	if t.kept && !t.drop && t.lost == "" && t.relieve(ctx, f) == nil {
		return nil
	}
	nodes, err := f.nodes(ctx)
	if err != nil {
		return err
	}
	found := t.bitmaps(nodes)
	if t.drop {
		t.lost = "dropped"
		return t.discard(ctx, f, found)
	}
	gone := t.now.Bitmap
	if t.kept {
		gone = t.last.Bitmap
	}
	for node, list := range found {
		has := func(name string) bool {
			return slices.ContainsFunc(list, func(b bitmap) bool { return b.Name == name && !b.Busy })
		}
		if !has(gone) {
			continue
		}
		if !t.kept && t.lost == "" && has(t.last.Bitmap) {
			if err := f.do(ctx, "transaction", object{"actions": takeBack(node, t.last.Bitmap, t.now.Bitmap)}); err != nil {
				return err
			}
		}
		if err := f.do(ctx, "block-dirty-bitmap-remove", object{"node": node, "name": gone}); err != nil {
			return err
		}
	}
	return nil
}

// relieve removes the last bitmaps, which are where they were unless somebody else
// meddled.
func (t *tracking) relieve(ctx context.Context, f *fleece) error {
	var removed sent
	for _, b := range t.now.Disks {
		if !b.ReadOnly {
			removed.add(f.monitor.Begin("block-dirty-bitmap-remove", object{"node": b.Node, "name": t.last.Bitmap}))
		}
	}
	return removed.wait(ctx)
}

// dirtyRuns reads a whole metadata context and gives the runs that are, sorted.
func dirtyRuns(client *nbd.Client, context string, is func(flags uint32) bool) ([]filewatch.Extent, error) {
	return runsOf(client, context, 0, client.Size, is)
}

// runsOf is dirtyRuns from one offset to another; a run may go on past that.
func runsOf(client *nbd.Client, context string, from, end int64, is func(flags uint32) bool) ([]filewatch.Extent, error) {
	var out []filewatch.Extent
	for off := from; off < end; {
		extents, err := client.Extents(context, off, end-off)
		if err != nil {
			return nil, err
		}
		for _, e := range extents {
			if n := len(out); is(e.Flags) && n > 0 && out[n-1].Physical+out[n-1].Length == e.Off {
				out[n-1].Length += e.Length
			} else if is(e.Flags) {
				out = append(out, filewatch.Extent{Physical: e.Off, Length: e.Length})
			}
			off = e.Off + e.Length
		}
	}
	return out, nil
}
