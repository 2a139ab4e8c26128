package guest

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sync"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/internal/sorted"
)

// view is one state of a volume: a base and what lies over it. Safe for concurrent
// use, but not of two views of one base.
type view struct {
	base *sorted.File
	over *overlay
	find *sorted.Cursor // of the base, for whoever holds mu or is alone

	mu       sync.Mutex
	children map[uint64][]entry // of the overlay, by directory
	dirs     dirPaths
	err      error // the first one met in the base
}

// open opens the base of a memory.
func (m *volumeMemory) open(dir sorted.Dir) (*view, error) {
	base, err := dir.Open(m.base)
	if err != nil {
		return nil, memoryError(err)
	}
	return newView(m.root, m.point, base, m.over), nil
}

func newView(root uint64, point string, base *sorted.File, over *overlay) *view {
	v := &view{base: base, over: over, find: base.All(), children: map[uint64][]entry{}}
	v.dirs = newDirPaths(root, point, func(inode uint64) (uint64, string, bool) {
		entries, err := v.naming(inode)
		v.fail(err)
		if len(entries) == 0 {
			return 0, "", false
		}
		return entries[0].parent, entries[0].name, true
	})
	for _, e := range over.entries {
		v.children[e.parent] = append(v.children[e.parent], e)
	}
	return v
}

// again is the same for another goroutine.
func (v *view) again() *view { return &view{base: v.base.Again(), over: v.over} }

// places looks up places in the order of inodes.
type places struct {
	base *sorted.Cursor
	over *overlay
	key  []byte
}

func (v *view) places() *places { return &places{base: v.base.All(), over: v.over} }

// find gives the place of an inode that is not before the last one asked for; nil
// for none.
func (p *places) find(inode uint64) (placeBody, error) {
	if body, ok := p.over.places[inode]; ok {
		return body, nil
	}
	p.key = appendKey(p.key[:0], keyPlace, inode)
	e, err := p.base.To(p.key)
	if err != nil {
		return nil, memoryError(err)
	}
	if !bytes.HasPrefix(e, p.key) {
		return nil, nil
	}
	if body := placeBody(e[len(p.key):]); body.valid() {
		return body, nil
	}
	return nil, ErrMemory
}

// owners adds the owners of any of the runs, which are as volume.Merge leaves them.
func (v *view) owners(runs []filewatch.Extent, to map[uint64]bool) error {
	var p place
	for inode, body := range v.over.places {
		if body == nil {
			continue
		}
		if err := body.decode(inode, &p); err != nil {
			return err
		}
		if p.on(runs) {
			to[inode] = true
		}
	}
	cursor := v.base.All()
	for class := 0; class < 64; class++ {
		next, err := v.ownersOf(cursor, class, runs, to)
		if err != nil {
			return err
		}
		class = max(class, next-1)
	}
	return nil
}

// ownersOf looks at the extents of one class and says which one comes next. The
// cursor need not go back for the next run: what it passed either was an owner of
// an earlier run or ended before that.
func (v *view) ownersOf(cursor *sorted.Cursor, class int, runs []filewatch.Extent, to map[uint64]bool) (next int, err error) {
	longest := int64(1) << min(class, 62)
	var key []byte
	for _, run := range runs {
		key = appendKey(append(key[:0], keyOwner), byte(class), uint64(max(0, run.Physical-longest)))
		for e, err := cursor.To(key); ; e, err = cursor.Peek() {
			if err != nil {
				return 0, memoryError(err)
			}
			if e == nil || e[0] != keyOwner {
				return 64, nil
			}
			start, end, inode, err := owner(e)
			if err != nil {
				return 0, err
			}
			if int(e[1]) != class {
				return int(e[1]), nil
			}
			if start >= run.Physical+run.Length {
				break
			}
			if end > run.Physical && !v.over.has(inode) {
				to[inode] = true
			}
			cursor.Next()
		}
	}
	return class + 1, nil
}

// prefixed gives what follows the key in each entry of the base that begins so.
func (v *view) prefixed(key []byte, fn func(rest []byte) error) error {
	for e, err := v.find.Seek(key); ; e, err = v.find.Peek() {
		if err != nil {
			return memoryError(err)
		}
		if e == nil || !bytes.HasPrefix(e, key) {
			return nil
		}
		if len(e) < len(key)+8 {
			return ErrMemory
		}
		if err := fn(e[len(key):]); err != nil {
			return err
		}
		v.find.Next()
	}
}

// naming gives the entries that name an inode, in order.
func (v *view) naming(inode uint64) (out []entry, err error) {
	err = v.prefixed(appendKey(nil, keyName, inode), func(rest []byte) error {
		if parent := binary.BigEndian.Uint64(rest); !v.over.has(parent) {
			out = append(out, entry{inode, parent, string(rest[8:])})
		}
		return nil
	})
	if over := v.over.of(inode); len(over) > 0 {
		out = append(out, over...)
		slices.SortFunc(out, compareEntries)
	}
	return out, err
}

// in gives the entries of a directory.
func (v *view) in(dir uint64) (out []entry, err error) {
	if v.over.has(dir) {
		return v.children[dir], nil
	}
	err = v.prefixed(appendKey(nil, keyParent, dir), func(rest []byte) error {
		out = append(out, entry{binary.BigEndian.Uint64(rest), dir, string(rest[8:])})
		return nil
	})
	return out, err
}

// below adds to the inodes everything below those of them that are directories;
// errWhole when they become too many.
func (v *view) below(affected map[uint64]bool) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	var todo []uint64
	for inode := range affected {
		todo = append(todo, inode)
	}
	for len(todo) > 0 {
		dir := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		entries, err := v.in(dir)
		if err != nil {
			return err
		}
		if len(affected) > maxTouched {
			return errWhole
		}
		for _, e := range entries {
			if !affected[e.inode] {
				affected[e.inode] = true
				todo = append(todo, e.inode)
			}
		}
	}
	return nil
}

// of gives the paths of an inode in the guest, sorted; nil for none. What cannot be
// read of the base is kept in err.
func (v *view) of(inode uint64) []string {
	if inode == v.dirs.root {
		return []string{v.dirs.point}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	entries, err := v.naming(inode)
	v.fail(err)
	var out []string
	for _, e := range entries {
		if dir, ok := v.dirs.of(e.parent, 0); ok {
			out = append(out, join(dir, e.name))
		}
	}
	if len(out) > 1 {
		slices.Sort(out)
		out = slices.Compact(out)
	}
	return out
}

func (v *view) fail(err error) {
	if v.err == nil {
		v.err = err
	}
}
