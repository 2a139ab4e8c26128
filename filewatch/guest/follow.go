package guest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume"
	"github.com/plumbline-sec/plumbline/internal/sorted"
)

// Following is a guest seen after an earlier scan: it knows what of that scan no
// longer holds.
type Following struct {
	*Guest
	volumes []*followed // one for each mount
	touched filewatch.Touched
}

// Follow finds what differs from the scan that m remembers when on each disk at
// most the bytes in changed did, which are sorted. A disk without an entry is not
// known. again are objects to look at in any case. What cannot be followed is
// listed in Touched.Whole with its reason and scanned whole.
func (g *Guest) Follow(ctx context.Context, m *Memory, changed map[int][]filewatch.Extent, again []filewatch.ID) (*Following, error) {
	f := &Following{Guest: g, touched: filewatch.Touched{Inodes: map[string][]uint64{}}}
	seen := map[string]bool{}
	for _, mount := range g.Mounts {
		v := &followed{mount: mount, now: newVolumeMemory(mount), dir: m.dir}
		reason, err := v.follow(ctx, m, changed, again)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", describe(mount.Volume), err)
		}
		id := v.now.id
		if id == "" || seen[id] {
			return nil, fmt.Errorf("volumes cannot be told apart: two have the identity %q, or none", id)
		}
		seen[id] = true
		if reason != "" {
			v.whole = true
			f.touched.Whole = append(f.touched.Whole, filewatch.Gap{Volume: id, What: id, Reason: reason})
		} else {
			f.touched.Inodes[id] = v.void
		}
		f.volumes = append(f.volumes, v)
	}
	for _, old := range m.volumes {
		if !seen[old.id] {
			seen[old.id] = true
			f.touched.Whole = append(f.touched.Whole, filewatch.Gap{Volume: old.id, What: old.id, Reason: "the volume is gone"})
		}
	}
	return f, nil
}

// someBatch is how many objects are handed out together: the first contents are
// read while the names of the next are looked up.
const someBatch = 64

// Touched is what no longer holds.
func (f *Following) Touched() *filewatch.Touched { return &f.touched }

// ScanTouched visits what of Touched exists now, as [Guest.Scan] would. want is
// told whether the content certainly is what it was, and both where it is, as
// [Guest.ScanPlaced] tells.
func (f *Following) ScanTouched(ctx context.Context, want func(o *filewatch.Object, names []string, same bool, at filewatch.Where) bool,
	visit placedVisit) ([]filewatch.Gap, error) {
	gaps := slices.Clone(f.gaps)
	f.memory = &Memory{dir: f.Remember}
	for _, v := range f.volumes {
		s := &scan{mount: v.mount, dir: f.Remember}
		if f.Remember != "" {
			s.memory = v.now
		}
		s.placed(f.untouched, func(o *filewatch.Object, names []string, at filewatch.Where) bool {
			return want(o, names, !v.whole && v.same[o.Inode], at)
		}, visit)
		var err error
		if v.whole {
			err = s.run(ctx, f.Workers)
		} else if len(v.located) > 0 {
			s.names = v.is
			options := s.options(f.Workers)
			options.Batch, options.Scattered = someBatch, true
			options.Note = func(o *filewatch.Object, content filewatch.Content, _ error) error {
				s.look(o, &content)
				return nil
			}
			err = v.mount.Volume.ScanSome(ctx, options, v.located, s.one)
			err = errors.Join(err, v.is.err)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", describe(v.mount.Volume), err)
		}
		gaps = append(gaps, s.gaps...)
		f.memory.volumes = append(f.memory.volumes, v.now)
	}
	return gaps, nil
}

// followed is one volume of a [Following].
type followed struct {
	mount Mount
	now   *volumeMemory
	whole bool
	dir   sorted.Dir

	reader  volume.Follower
	old     *volumeMemory
	was, is *view
	blocks  []filewatch.Extent   // that read differently
	located []volume.Located     // to visit, in the order of inodes
	places  map[uint64]placeBody // of those whose place was taken anew
	gone    map[uint64]bool
	same    map[uint64]bool // content is what it was
	void    []uint64
}

// follow finds the objects to look at. The reason says why all of them; an error
// is of the disk.
func (f *followed) follow(ctx context.Context, m *Memory, changed map[int][]filewatch.Extent, again []filewatch.ID) (reason string, err error) {
	v := f.mount.Volume
	i := slices.IndexFunc(m.volumes, func(o *volumeMemory) bool { return o.at(f.now) })
	if i < 0 {
		return "the last scan did not have it here", nil
	}
	f.old = m.volumes[i]
	dirty, err := v.Dirty(changed)
	if err != nil {
		return err.Error(), nil
	}
	if len(dirty) == 0 && f.old.clean && !slices.ContainsFunc(again, func(id filewatch.ID) bool { return id.Volume == f.now.id }) {
		f.now = f.old // whatever it is: no byte of it changed
		return "", nil
	}
	if f.old.refused != "" {
		return f.old.refused, nil
	}
	f.reader, f.now.clean, f.now.key = v.Follower(), true, f.old.key
	if f.old.root != f.now.root {
		return "its root is another", nil
	}
	if f.was, err = f.old.open(f.dir); err != nil {
		return "", err
	}
	if f.now.marks, err = f.reader.Marks(); err != nil {
		return err.Error(), nil
	}
	blocks, inodes, renewed, err := f.reader.Changed(f.old.marks, dirty)
	if err != nil {
		return err.Error(), nil
	}
	f.blocks = volume.Merge(blocks)
	forced := map[uint64]bool{}
	for _, n := range renewed {
		forced[n] = true
	}
	for _, id := range again {
		if id.Volume == f.now.id {
			forced[id.Inode] = true
		}
	}
	return f.find(ctx, inodes, forced)
}

// find narrows the candidates down, then follows names.
func (f *followed) find(ctx context.Context, candidates []uint64, forced map[uint64]bool) (reason string, err error) {
	if len(f.blocks) > 0 {
		if err := f.was.owners(f.blocks, forced); err != nil {
			return "", err
		}
	}
	candidates = append(candidates, slices.Collect(maps.Keys(forced))...)
	slices.Sort(candidates)
	candidates = slices.Compact(candidates)
	if reason, err = f.look(ctx, candidates, forced); err != nil || reason != "" {
		return reason, err
	}
	if reason, err = f.rename(ctx); err != nil || reason != "" {
		return reason, err
	}
	slices.SortFunc(f.located, func(a, b volume.Located) int { return compareInodes(a.Object.Inode, b.Object.Inode) })
	for i := range f.located {
		f.void = append(f.void, f.located[i].Object.Inode)
	}
	f.void = append(f.void, slices.Collect(maps.Keys(f.gone))...)
	slices.Sort(f.void)
	f.void = slices.Compact(f.void)
	return "", nil
}

func compareInodes(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
