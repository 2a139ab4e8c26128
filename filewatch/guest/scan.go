package guest

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume"
	"github.com/plumbline-sec/plumbline/internal/sorted"
)

// namer says how an object is called.
type namer interface {
	// of gives the paths of an inode in the guest, sorted; nil for none.
	of(inode uint64) []string
}

// scan is the visit to one volume.
type scan struct {
	mount Mount
	names namer
	want  func(*filewatch.Object, []string) bool
	visit func(*filewatch.Object, []string, io.Reader, error) error
	// look, if not nil, is told of every object before want is asked.
	look func(*filewatch.Object, *filewatch.Content)
	// memory, if not nil, is filled, its base in dir.
	memory *volumeMemory
	dir    sorted.Dir
	base   *baseWriter
	last   uint64 // inode in the base
	placer *placer

	mu   sync.Mutex // guards gaps
	gaps []filewatch.Gap
}

func (s *scan) gap(what string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gaps = append(s.gaps, filewatch.Gap{Volume: s.mount.Volume.ID(), What: what, Reason: err.Error()})
}

func (s *scan) run(ctx context.Context, workers int) error {
	v := s.mount.Volume
	names := newNames(v.Root(), s.mount.Point)
	s.names = names
	var damaged []damagedDir
	err := v.Names(ctx, func(n filewatch.Name, damage error) error {
		if damage != nil {
			damaged = append(damaged, damagedDir{n.Parent, damage})
		}
		if len(n.Name) == 0 {
			return nil
		}
		return names.add(n)
	})
	if err != nil {
		return err
	}
	names.sort()
	slices.SortStableFunc(damaged, func(a, b damagedDir) int { return cmp.Compare(a.inode, b.inode) })
	for _, d := range damaged {
		s.gap(names.label(d.inode), d.err)
	}
	options := s.options(workers)
	if s.memory != nil && s.dir != "" {
		s.remember(damaged)
	}
	if s.memory != nil || s.look != nil {
		options.Note = s.note
	}
	err = v.Scan(ctx, options, s.one)
	if err == nil {
		names.dangling(func(what string, err error) {
			s.gap(what, err)
			if s.memory != nil {
				s.memory.refuse(err.Error())
			}
		})
	}
	if s.memory != nil {
		s.memory.clean = err == nil && len(s.gaps) == 0
	}
	s.keep(names, err == nil)
	return err
}

func (s *scan) options(workers int) *volume.ScanOptions {
	return &volume.ScanOptions{Workers: workers, Select: func(o *filewatch.Object) (bool, []string) {
		if o.Type != filewatch.TypeFile {
			return false, nil
		}
		names := s.names.of(o.Inode)
		return s.want(o, names), names
	}}
}

// remember starts the volume's memory, or says why there is none.
func (s *scan) remember(damaged []damagedDir) {
	var err error
	if s.memory.marks, err = s.mount.Volume.Follower().Marks(); err != nil {
		s.memory.refuse(err.Error())
	}
	if len(damaged) > 0 {
		s.memory.refuse(damaged[0].err.Error())
	}
	if s.memory.refused == "" {
		if s.placer, err = s.memory.placer(); err == nil {
			s.base, err = newBaseWriter(s.dir)
		}
		s.unkept(err)
	}
}

// unkept notes that the memory could not be written. The scan goes on: only the
// next one will have to look at everything.
func (s *scan) unkept(err error) {
	if err != nil {
		s.memory.refuse("what the last scan found of it could not be kept: " + err.Error())
	}
}

// note takes down where an object is.
func (s *scan) note(o *filewatch.Object, content filewatch.Content, damage error) error {
	if s.look != nil {
		s.look(o, &content)
	}
	if s.memory == nil {
		return nil
	}
	if o.Inode == 0 && damage != nil {
		s.memory.refuse(damage.Error())
	}
	if o.Inode > 0 && o.Inode <= s.last {
		s.memory.refuse(fmt.Sprintf("inode %d comes after %d", o.Inode, s.last))
	}
	if s.memory.refused != "" {
		return nil
	}
	p := s.placer.place(o, &content)
	s.last = o.Inode
	s.unkept(s.base.place(&p))
	return nil
}

// keep ends the base; names have another order afterwards.
func (s *scan) keep(names *names, whole bool) {
	if s.base == nil {
		return
	}
	if !whole || s.memory.refused != "" {
		s.base.abandon()
		return
	}
	var err error
	s.memory.objects = s.base.places
	s.memory.base, err = s.base.finish(names)
	s.unkept(err)
}

// damagedDir is a directory that could not be read whole.
type damagedDir struct {
	inode uint64
	err   error
}

func (s *scan) one(o *filewatch.Object, names []string, content *volume.Content, damage error) error {
	if o == nil || o.Inode == 0 {
		s.gap("inodes", damage)
		return nil
	}
	if names == nil {
		names = s.names.of(o.Inode)
	}
	if names == nil && damage == nil {
		damage = fmt.Errorf("no directory names inode %d", o.Inode)
	}
	if content == nil {
		return s.visit(o, names, nil, damage)
	}
	return s.visit(o, names, content, damage)
}
