package guest

import (
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume"
)

// scan is the visit to one volume.
type scan struct {
	mount Mount
	names *names
	want  func(*filewatch.Object, []string) bool
	visit func(*filewatch.Object, []string, io.Reader, error) error
	// memory, if not nil, is filled.
	memory *volumeMemory
	last   uint64 // inode in memory
	// scratch is used again for each object.
	scratch []byte

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
	s.names = newNames(v.Root(), s.mount.Point)
	var damaged []damagedDir
	err := v.Names(ctx, func(n filewatch.Name, damage error) error {
		if damage != nil {
			damaged = append(damaged, damagedDir{n.Parent, damage})
		}
		if len(n.Name) == 0 {
			return nil
		}
		return s.names.add(n)
	})
	if err != nil {
		return err
	}
	s.names.sort()
	for _, d := range damaged {
		s.gap(s.names.label(d.inode), d.err)
	}
	options := s.options(workers)
	if s.memory != nil {
		s.remember(damaged)
		options.Note = s.note
	}
	err = v.Scan(ctx, options, s.one)
	if s.memory != nil {
		s.memory.clean = err == nil && len(s.gaps) == 0
	}
	return err
}

func (s *scan) options(workers int) *volume.ScanOptions {
	return &volume.ScanOptions{Workers: workers, Select: func(o *filewatch.Object) bool {
		return o.Type == filewatch.TypeFile && s.want(o, s.names.of(o.Inode))
	}}
}

// remember starts the volume's memory, or says why there is none.
func (s *scan) remember(damaged []damagedDir) {
	f, ok := s.mount.Volume.Follower()
	if !ok {
		s.memory.refuse("changes of " + s.mount.Volume.Type + " file systems cannot be followed")
		return
	}
	var err error
	if s.memory.marks, err = f.Marks(); err != nil {
		s.memory.refuse(err.Error())
	}
	if len(damaged) > 0 {
		s.memory.refuse(damaged[0].err.Error())
	}
	if s.memory.refused == "" {
		s.memory.names = s.names
	}
}

// note takes down where an object is.
func (s *scan) note(o *filewatch.Object, content filewatch.Content, damage error) error {
	if o.Inode == 0 && damage != nil {
		s.memory.refuse(damage.Error())
	}
	if o.Inode > 0 && o.Inode <= s.last {
		s.memory.refuse(fmt.Sprintf("inode %d comes after %d", o.Inode, s.last))
	}
	if s.memory.refused != "" {
		return nil
	}
	p := placeOf(o, &content, &s.scratch)
	s.memory.objects = s.memory.objects.append(s.last, &p)
	s.last = o.Inode
	return nil
}

// damagedDir is a directory that could not be read whole.
type damagedDir struct {
	inode uint64
	err   error
}

func (s *scan) one(o *filewatch.Object, content *volume.Content, damage error) error {
	if o == nil || o.Inode == 0 {
		s.gap("inodes", damage)
		return nil
	}
	names := s.names.of(o.Inode)
	if names == nil && damage == nil {
		damage = fmt.Errorf("no directory names inode %d", o.Inode)
	}
	if content == nil {
		return s.visit(o, names, nil, damage)
	}
	return s.visit(o, names, content, damage)
}
