package guest

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume"
)

// rename lists the touched directories again, makes the memory of now, and adds
// the objects whose paths are others than before.
func (f *followed) rename(ctx context.Context) (reason string, err error) {
	over := &overlay{places: f.places}
	for inode := range f.gone {
		over.places[inode] = nil
	}
	changes := map[entry]int{}
	for i := range f.located {
		o := f.located[i].Object
		if o.Type != filewatch.TypeDir {
			continue
		}
		err := f.reader.List(o.Inode, func(n filewatch.Name) error {
			if n.Inode > maxInode || n.Parent > maxInode {
				return fmt.Errorf("directory entry of inode %d in %d: %w", n.Inode, n.Parent, filewatch.ErrCorrupt)
			}
			e := entry{n.Inode, n.Parent, string(n.Name)}
			over.entries = append(over.entries, e)
			changes[e]--
			return nil
		})
		if err != nil {
			return err.Error(), nil
		}
	}
	for inode := range over.places {
		entries, err := f.was.in(inode)
		if err != nil {
			return "", err
		}
		for _, e := range entries {
			changes[e]++
		}
	}
	f.now.base, f.now.objects, f.now.over = f.old.base, f.old.objects, f.old.over.under(over)
	f.is = newView(f.now.root, f.now.point, f.was.base, f.now.over)
	affected := map[uint64]bool{}
	for e, n := range changes {
		if n != 0 {
			affected[e.inode] = true
		}
	}
	if err = f.is.below(affected); err == nil {
		err = f.was.below(affected)
	}
	if err == errWhole {
		return "too many objects are renamed", nil
	}
	if err != nil {
		return "", err
	}
	return f.visitRenamed(ctx, affected)
}

// visitRenamed adds the objects that are touched by their names only.
func (f *followed) visitRenamed(ctx context.Context, affected map[uint64]bool) (reason string, err error) {
	for i := range f.located {
		delete(affected, f.located[i].Object.Inode)
	}
	for inode := range f.gone {
		if reason, err := f.named(inode); err != nil || reason != "" {
			return reason, err
		}
		delete(affected, inode)
	}
	nowhere := maps.Clone(affected)
	err = f.reader.Some(ctx, slices.Sorted(maps.Keys(affected)), func(uint64, []byte) bool { return false }, func(o *filewatch.Object, content filewatch.Content, damage error) error {
		if damage != nil && o.Inode == 0 || len(f.located) > maxTouched {
			reason = "too many objects are renamed, or they are damaged"
			return errWhole
		}
		f.located = append(f.located, volume.Located{Object: o, Content: content, Damage: damage})
		f.same[o.Inode] = damage == nil // nothing of its own changed
		delete(nowhere, o.Inode)
		return nil
	})
	if err == errWhole {
		return reason, nil
	}
	for inode := range nowhere {
		if reason, err := f.named(inode); err != nil || reason != "" {
			return reason, err
		}
	}
	return "", err
}

// named is why the volume must be scanned whole where an inode that is not there has a
// name: that scan tells it.
func (f *followed) named(inode uint64) (reason string, err error) {
	entries, err := f.is.naming(inode)
	if err != nil || len(entries) == 0 || inode == f.is.dirs.root {
		return "", err
	}
	return danglingError(inode).Error(), nil
}
