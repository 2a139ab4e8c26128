package vfat

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Object reads one directory entry by its inode number.
func (v *Volume) Object(inode uint64) (*filewatch.Object, filewatch.Content, error) {
	if inode == rootInode {
		return v.rootObject()
	}
	s := slot{inode: inode, raw: make([]byte, 32)}
	if inode < uint64(v.fat+v.fatSize)/32 || inode >= uint64(v.size)/32 {
		return nil, filewatch.Content{}, fmt.Errorf("no directory entry at %d: %w", inode, filewatch.ErrCorrupt)
	}
	if _, err := v.dev.ReadAt(s.raw, int64(inode)*32); err != nil {
		return nil, filewatch.Content{}, fmt.Errorf("read directory entry %d: %w", inode, err)
	}
	if s.raw[0] == 0 || s.raw[0] == 0xE5 || s.raw[0x0B]&attrVolume != 0 {
		return nil, filewatch.Content{}, fmt.Errorf("no directory entry at %d: %w", inode, filewatch.ErrCorrupt)
	}
	return v.describe(&s, &table{v: v})
}

func (v *Volume) rootObject() (*filewatch.Object, filewatch.Content, error) {
	o := &filewatch.Object{Volume: v.Serial, Inode: rootInode, Type: filewatch.TypeDir, Mode: 0o755, Nlink: 1}
	es, size, err := v.dirExtents(rootInode)
	o.Size = size
	return o, filewatch.Content{At: -1, Extents: es}, err
}

// describe fills what Linux shows by default: all may read and execute, only
// root writes, and not even root what is marked read-only.
func (v *Volume) describe(s *slot, t *table) (*filewatch.Object, filewatch.Content, error) {
	o := &filewatch.Object{
		Volume: v.Serial, Inode: s.inode, Type: filewatch.TypeFile, Mode: 0o755, Nlink: 1,
		Size:  int64(le.Uint32(s.raw[0x1C:])),
		Mtime: stamp(s.raw[0x18:], s.raw[0x16:], 0), Crtime: stamp(s.raw[0x10:], s.raw[0x0E:], s.raw[0x0D]),
		Atime: stamp(s.raw[0x12:], nil, 0),
	}
	o.Ctime = o.Mtime
	if s.raw[0x0B]&attrReadOnly != 0 {
		o.Mode &^= 0o222
	}
	c := filewatch.Content{At: int64(s.inode) * 32}
	var err error
	if s.isDir() {
		o.Type = filewatch.TypeDir
		if c.Extents, err = t.chain(s.cluster(v.bits), -1); err == nil && len(c.Extents) == 0 {
			err = fmt.Errorf("directory without clusters: %w", filewatch.ErrCorrupt)
		}
		o.Size = length(c.Extents)
	} else {
		c.Extents, err = t.chain(s.cluster(v.bits), o.Size)
	}
	if err != nil {
		err = fmt.Errorf("inode %d: %w", s.inode, err)
	}
	return o, c, err
}

func length(es []filewatch.Extent) int64 {
	if len(es) == 0 {
		return 0
	}
	last := es[len(es)-1]
	return last.Logical + last.Length
}

// stamp joins a date (7 bits of years since 1980, month, day), a time (in units
// of 2 seconds) and hundredths of a second. No date is the zero time.
func stamp(date, clock []byte, hundredths byte) time.Time {
	d, c := int(le.Uint16(date)), 0
	if clock != nil {
		c = int(le.Uint16(clock))
	}
	if d == 0 {
		return time.Time{}
	}
	return time.Date(1980+d>>9, time.Month(d>>5&15), d&31, c>>11, c>>5&63, c&31*2, int(hundredths)*10_000_000, time.UTC)
}

// dirExtents are the extents of a directory, and its size.
func (v *Volume) dirExtents(inode uint64) ([]filewatch.Extent, int64, error) {
	if inode != rootInode {
		_, c, err := v.Object(inode)
		return c.Extents, length(c.Extents), err
	}
	if v.bits != 32 {
		return []filewatch.Extent{{Physical: v.root, Length: v.rootSize}}, v.rootSize, nil
	}
	es, err := (&table{v: v}).chain(v.rootCluster, -1)
	if err == nil && len(es) == 0 {
		err = fmt.Errorf("root directory without clusters: %w", filewatch.ErrCorrupt)
	}
	return es, length(es), err
}

// List calls fn for each entry of a directory, then returns the damage met.
func (v *Volume) List(inode uint64, fn func(filewatch.Name) error) error {
	es, _, err := v.dirExtents(inode)
	d := dirReader{v: v, es: es}
	if derr := d.read(func(s slot) error {
		return fn(filewatch.Name{Parent: inode, Inode: s.inode, Name: []byte(s.name)})
	}); derr != nil {
		return derr
	}
	return err
}

// Objects calls fn for every object, by place of its directory entry. The places
// are gathered first, 8 bytes each.
func (v *Volume) Objects(ctx context.Context, fn func(*filewatch.Object, filewatch.Content, error) error) error {
	o, c, err := v.rootObject()
	if err := fn(o, c, err); err != nil {
		return err
	}
	var places []uint64
	damage := map[uint64]error{}
	if err := v.walk(ctx, func(_ uint64, s slot) error {
		places = append(places, s.inode)
		return nil
	}, func(dir uint64, err error) error {
		damage[dir] = err
		return nil
	}); err != nil {
		return err
	}
	slices.Sort(places)
	return v.visit(ctx, places, damage, fn)
}

// visit reads the entries again, through a window, in the order of places.
func (v *Volume) visit(ctx context.Context, places []uint64, damage map[uint64]error, fn func(*filewatch.Object, filewatch.Content, error) error) error {
	t := &table{v: v}
	b := make([]byte, 64<<10)
	start, n := int64(0), int64(0)
	for _, inode := range slices.Compact(places) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		at := int64(inode) * 32
		if at < start || at+32 > start+n {
			start, n = at, min(int64(len(b)), v.size-at)
			if _, err := v.dev.ReadAt(b[:n], at); err != nil {
				if _, err = v.dev.ReadAt(b[:32], at); err != nil {
					n = 0
					if err := fn(&filewatch.Object{Volume: v.Serial, Inode: inode, Type: filewatch.TypeUnknown}, filewatch.Content{At: at}, err); err != nil {
						return err
					}
					continue
				}
				n = 32
			}
		}
		o, c, err := v.describe(&slot{inode: inode, raw: b[at-start:][:32]}, t)
		if err == nil {
			err = damage[inode]
		}
		if err := fn(o, c, err); err != nil {
			return err
		}
	}
	return nil
}

// Names calls fn for every entry of every directory.
func (v *Volume) Names(ctx context.Context, fn func(filewatch.Name, error) error) error {
	return v.walk(ctx, func(dir uint64, s slot) error {
		return fn(filewatch.Name{Parent: dir, Inode: s.inode, Name: []byte(s.name)}, nil)
	}, func(dir uint64, err error) error {
		return fn(filewatch.Name{Parent: dir}, err)
	})
}

// pendingDir is a directory still to be read.
type pendingDir struct {
	inode   uint64
	cluster uint32
}

// walk goes through all directories, level by level and by place within one.
// A directory met twice is damage.
func (v *Volume) walk(ctx context.Context, fn func(dir uint64, s slot) error, bad func(dir uint64, err error) error) error {
	t := &table{v: v}
	seen := map[uint32]bool{}
	level := []pendingDir{{inode: rootInode, cluster: v.rootCluster}}
	for len(level) > 0 {
		slices.SortFunc(level, func(a, b pendingDir) int { return cmp.Compare(a.cluster, b.cluster) })
		var below []pendingDir
		for _, d := range level {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if seen[d.cluster] {
				if err := bad(d.inode, fmt.Errorf("directory %d shares its clusters with another: %w", d.inode, filewatch.ErrCorrupt)); err != nil {
					return err
				}
				continue
			}
			seen[d.cluster] = true
			var stop error
			err := v.readDir(t, d, func(s slot) error {
				if s.isDir() {
					below = append(below, pendingDir{inode: s.inode, cluster: s.cluster(v.bits)})
				}
				stop = fn(d.inode, s)
				return stop
			})
			if stop == nil && err != nil {
				stop = bad(d.inode, fmt.Errorf("directory %d: %w", d.inode, err))
			}
			if stop != nil {
				return stop
			}
		}
		level = below
	}
	return nil
}

func (v *Volume) readDir(t *table, d pendingDir, fn func(slot) error) error {
	var es []filewatch.Extent
	var err error
	if d.inode == rootInode {
		es, _, err = v.dirExtents(rootInode)
	} else if es, err = t.chain(d.cluster, -1); err == nil && len(es) == 0 {
		err = fmt.Errorf("no clusters: %w", filewatch.ErrCorrupt)
	}
	r := dirReader{v: v, es: es}
	if rerr := r.read(fn); rerr != nil {
		return rerr
	}
	return err
}
