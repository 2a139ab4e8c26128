package guest

import (
	"context"
	"maps"
	"slices"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume"
)

// rename lists the touched directories again, makes the names of now, and adds
// the objects whose paths are others than before.
func (f *followed) rename(ctx context.Context) (reason string, err error) {
	fresh := newNames(f.old.names.root, f.now.point)
	if fresh.root != f.mount.Volume.Root() {
		return "its root is another", nil
	}
	listed := maps.Clone(f.gone)
	for i := range f.located {
		o := f.located[i].Object
		listed[o.Inode] = true
		if o.Type != filewatch.TypeDir {
			continue
		}
		if err := f.reader.List(o.Inode, fresh.add); err != nil {
			return err.Error(), nil
		}
	}
	fresh.sort()
	var affected map[uint64]bool
	f.now.names, affected, err = f.old.names.replace(listed, fresh)
	if err != nil {
		return err.Error(), nil
	}
	f.now.names.below(affected)
	f.old.names.below(affected)
	return f.visitRenamed(ctx, affected)
}

// visitRenamed adds the objects that are touched by their names only.
func (f *followed) visitRenamed(ctx context.Context, affected map[uint64]bool) (reason string, err error) {
	for i := range f.located {
		delete(affected, f.located[i].Object.Inode)
	}
	for inode := range f.gone {
		delete(affected, inode)
	}
	err = f.reader.Some(ctx, slices.Sorted(maps.Keys(affected)), func(uint64, []byte) bool { return false }, func(o *filewatch.Object, content filewatch.Content, damage error) error {
		if damage != nil && o.Inode == 0 || len(f.located) > maxTouched {
			reason = "too many objects are renamed, or they are damaged"
			return errWhole
		}
		f.located = append(f.located, volume.Located{Object: o, Content: content, Damage: damage})
		f.same[o.Inode] = damage == nil // nothing of its own changed
		return nil
	})
	if err == errWhole {
		return reason, nil
	}
	return "", err
}

// replace gives the names with the entries of the listed directories taken from
// fresh, and the inodes that one of both names otherwise.
func (t *names) replace(listed map[uint64]bool, fresh *names) (*names, map[uint64]bool, error) {
	type entry struct {
		parent, inode uint64
		name          string
	}
	out := newNames(t.root, t.point)
	out.text = t.text
	out.entries = make([]name, 0, len(t.entries)+len(fresh.entries))
	before := map[entry]int{}
	add := make([]name, 0, len(fresh.entries))
	for i := range fresh.entries {
		e := fresh.entries[i]
		text := fresh.get(e.text)
		before[entry{e.parent(), e.inode(), text}]--
		var err error
		if e.text, err = out.put([]byte(text)); err != nil {
			return nil, nil, err
		}
		add = append(add, e)
	}
	for i := range t.entries {
		e := t.entries[i]
		for len(add) > 0 && add[0].inode() <= e.inode() {
			out.entries = append(out.entries, add[0])
			add = add[1:]
		}
		if listed[e.parent()] {
			before[entry{e.parent(), e.inode(), t.get(e.text)}]++
			continue
		}
		out.entries = append(out.entries, e)
	}
	out.entries = append(out.entries, add...)
	affected := map[uint64]bool{}
	for e, n := range before {
		if n != 0 {
			affected[e.inode] = true
		}
	}
	return out, affected, nil
}

// below adds to the affected inodes everything below those of them that are
// directories.
func (t *names) below(affected map[uint64]bool) {
	for grown := len(affected) > 0; grown; {
		grown = false
		for i := range t.entries {
			e := &t.entries[i]
			if affected[e.parent()] && !affected[e.inode()] {
				affected[e.inode()] = true
				grown = true
			}
		}
	}
}
