package dirscan

import (
	"cmp"
	"errors"
	"slices"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// batch is how many directories are sorted by place at a time.
const batch = 16384

// Queue lists directories in the order of their place on the volume, a batch at
// a time. D is the reader's own form of a directory.
type Queue[D any] struct {
	// List reads one directory.
	List func(dir *D, where filewatch.Content, fn func(filewatch.Name) error) error
	// Fn receives the entries, and damage with only Parent set.
	Fn func(filewatch.Name, error) error

	pending []pending[D]
}

type pending[D any] struct {
	inode uint64
	dir   D
	where filewatch.Content
}

func (p *pending[D]) place() int64 {
	if len(p.where.Extents) == 0 {
		return -1
	}
	return p.where.Extents[0].Physical
}

// Add takes a directory, and reports what is already known to be damaged.
func (q *Queue[D]) Add(inode uint64, dir D, where filewatch.Content, damage error) error {
	if damage != nil {
		if err := q.Fn(filewatch.Name{Parent: inode}, damage); err != nil {
			return err
		}
	}
	if q.pending = append(q.pending, pending[D]{inode, dir, where}); len(q.pending) < batch {
		return nil
	}
	return q.Flush()
}

// Flush lists what is pending.
func (q *Queue[D]) Flush() error {
	slices.SortFunc(q.pending, func(a, b pending[D]) int { return cmp.Compare(a.place(), b.place()) })
	for i := range q.pending {
		p := &q.pending[i]
		err := q.List(&p.dir, p.where, func(n filewatch.Name) error { return q.Fn(n, nil) })
		var damage *Damage
		if errors.As(err, &damage) {
			err = q.Fn(filewatch.Name{Parent: p.inode}, err)
		}
		if err != nil {
			return err
		}
	}
	q.pending = q.pending[:0]
	return nil
}
