// Package tree reads a mounted directory tree the way the volume readers read a
// disk: every object once, with its names, metadata and content.
//
// It sees what the kernel it runs on shows, so it proves no more than that
// kernel; from outside, package volume reads the disk itself. It never follows a
// symbolic link, and looks into mounted file systems except those that exist
// only in the kernel (proc, sysfs and their kind), which hold no files at rest.
package tree

import (
	"context"
	"errors"
	"io"
	"runtime"
	"slices"
	"sync"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// ErrNotSupported: this operating system's trees cannot be read.
var ErrNotSupported = errors.New("reading mounted trees is not supported on " + runtime.GOOS)

// batch is how many objects are held before their contents are read in the
// order of their inode numbers, which on most file systems is nearly the order
// on the disk.
const batch = 8192

// Tree is a directory that stands for the root of a machine.
type Tree struct {
	root root

	mu      sync.Mutex // guards what follows
	volumes []string
	gaps    []filewatch.Gap
}

// Machine says whose files they are.
func (t *Tree) Machine() filewatch.Machine {
	t.mu.Lock()
	defer t.mu.Unlock()
	return filewatch.Machine{MachineID: t.root.machineID(), Volumes: slices.Clone(t.volumes)}
}

func (t *Tree) addVolume(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if at, found := slices.BinarySearch(t.volumes, id); !found {
		t.volumes = slices.Insert(t.volumes, at, id)
	}
}

func (t *Tree) gap(volume, what string, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.gaps = append(t.gaps, filewatch.Gap{Volume: volume, What: filewatch.EscapePath(what), Reason: err.Error()})
}

// Scan visits every object once; see baseline.Source.
func (t *Tree) Scan(ctx context.Context, want func(*filewatch.Object, []string) bool,
	visit func(*filewatch.Object, []string, io.Reader, error) error) ([]filewatch.Gap, error) {
	t.gaps = nil
	s := &scan{tree: t, want: want, visit: visit, linked: map[filewatch.ID]*item{}, queue: make(chan []*item, 1)}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var workers sync.WaitGroup
	for range max(2, runtime.GOMAXPROCS(0)) {
		workers.Go(func() {
			if err := s.work(ctx); err != nil {
				cancel(err)
			}
		})
	}
	err := t.root.walk(ctx, t, func(it *item) error { return s.add(ctx, it) })
	if err == nil {
		err = s.finish(ctx)
	}
	close(s.queue)
	workers.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return nil, cause
	}
	return t.gaps, err
}

// item is one object on its way to visit.
type item struct {
	obj    filewatch.Object
	names  []string
	damage error
}

type scan struct {
	tree    *Tree
	want    func(*filewatch.Object, []string) bool
	visit   func(*filewatch.Object, []string, io.Reader, error) error
	linked  map[filewatch.ID]*item // objects with several names, until all are known
	pending []*item
	queue   chan []*item
}

func (s *scan) add(ctx context.Context, it *item) error {
	if it.obj.Nlink > 1 && it.obj.Type != filewatch.TypeDir {
		if first := s.linked[it.obj.ID()]; first != nil {
			first.names = append(first.names, it.names...)
			return nil
		}
		s.linked[it.obj.ID()] = it
		return nil
	}
	return s.push(ctx, it)
}

func (s *scan) push(ctx context.Context, it *item) error {
	s.pending = append(s.pending, it)
	if len(s.pending) < batch {
		return nil
	}
	return s.flush(ctx)
}

func (s *scan) finish(ctx context.Context) error {
	for _, it := range s.linked {
		slices.Sort(it.names)
		if err := s.push(ctx, it); err != nil {
			return err
		}
	}
	return s.flush(ctx)
}

// flush hands the pending objects out in pieces, ordered by inode.
func (s *scan) flush(ctx context.Context) error {
	slices.SortFunc(s.pending, func(a, b *item) int {
		switch {
		case a.obj.Inode < b.obj.Inode:
			return -1
		case a.obj.Inode > b.obj.Inode:
			return 1
		}
		return 0
	})
	for piece := range slices.Chunk(s.pending, 256) {
		select {
		case s.queue <- piece:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	s.pending = nil
	return nil
}

func (s *scan) work(ctx context.Context) error {
	for piece := range s.queue {
		for _, it := range piece {
			if ctx.Err() != nil {
				return nil
			}
			if err := s.one(it); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *scan) one(it *item) error {
	if it.damage != nil || it.obj.Type != filewatch.TypeFile || !s.want(&it.obj, it.names) {
		return s.visit(&it.obj, it.names, nil, it.damage)
	}
	f, err := s.tree.root.open(&it.obj, it.names[0])
	if err != nil {
		return s.visit(&it.obj, it.names, nil, err)
	}
	defer f.Close()
	return s.visit(&it.obj, it.names, f, nil)
}
