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
	options := &volume.ScanOptions{Workers: workers, Select: func(o *filewatch.Object) bool {
		return o.Type == filewatch.TypeFile && s.want(o, s.names.of(o.Inode))
	}}
	return v.Scan(ctx, options, s.one)
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
