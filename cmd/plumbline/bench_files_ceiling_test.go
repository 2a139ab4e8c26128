//go:build bench

package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/disk"
	"github.com/plumbline-sec/plumbline/filewatch/volume"
	"github.com/plumbline-sec/plumbline/internal/manysha"
)

// ceiling is a contender that is told in advance where every content is: it
// reads the bytes of each from the image, in the order of their place, computes
// SHA-256 of them on all cores with the fastest code there is here, and does
// nothing else. No create can be faster that reads every byte so.
func ceiling(t *testing.T, image string) *contender {
	t.Helper()
	if !manysha.Available() {
		fmt.Println("ceiling: not measured: this processor has no SHA extensions")
		return nil
	}
	f, err := os.Open(image)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	contents := layoutOf(t, image)
	return &contender{run: func() measured {
		before, start := usage(t), time.Now()
		var next atomic.Int64
		var wg sync.WaitGroup
		for range runtime.NumCPU() {
			wg.Go(func() {
				var many manysha.Many
				w := &ceilingWorker{file: f}
				const run = 64
				for {
					from := int(next.Add(run)) - run
					if from >= len(contents) {
						break
					}
					for _, c := range contents[from:min(from+run, len(contents))] {
						many.Stream(w.source(c))
					}
				}
				many.Finish()
				w.check(t)
			})
		}
		wg.Wait()
		m := measured{wall: time.Since(start), cpu: usage(t) - before}
		fmt.Printf("%-60s %6.2f s, %6.2f s of CPU\n", "reading and SHA-256 of all contents, nothing else", m.wall.Seconds(), m.cpu.Seconds())
		return m
	}}
}

func usage(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	must(t, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// extents are a content's, in logical order.
type extents struct {
	runs []filewatch.Extent
	size int64
}

// layoutOf finds the contents of an image of one volume.
func layoutOf(t *testing.T, image string) []extents {
	t.Helper()
	set, err := disk.OpenImages(t.Context(), []string{image})
	must(t, err)
	defer set.Close()
	d, err := volume.Open(set.Disks[0], set.Disks[0].Size)
	must(t, err)
	var out []extents
	must(t, d.Volumes[0].Objects(t.Context(), func(o *filewatch.Object, c filewatch.Content, damage error) error {
		if o.Type == filewatch.TypeFile && len(c.Extents) > 0 {
			out = append(out, extents{c.Extents, o.Size})
		}
		return damage
	}))
	slices.SortFunc(out, func(a, b extents) int { return cmp.Compare(a.runs[0].Physical, b.runs[0].Physical) })
	return out
}

// ceilingWorker makes sources, whose buffers it uses again.
type ceilingWorker struct {
	file *os.File
	idle []*ceilingSource
	err  error
}

func (w *ceilingWorker) check(t *testing.T) {
	if w.err != nil {
		t.Error(w.err)
	}
}

func (w *ceilingWorker) source(c extents) *ceilingSource {
	s := &ceilingSource{w: w}
	if last := len(w.idle) - 1; last >= 0 {
		s, w.idle = w.idle[last], w.idle[:last]
	} else {
		s.buf = make([]byte, 32<<10)
	}
	s.extents, s.off = c, 0
	return s
}

// ceilingSource reads one content.
type ceilingSource struct {
	extents
	w   *ceilingWorker
	buf []byte
	off int64
}

func (s *ceilingSource) Next() ([]byte, error) {
	for _, e := range s.runs {
		if in := s.off - e.Logical; in >= 0 && in < min(e.Length, s.size-e.Logical) {
			n, err := s.w.file.ReadAt(s.buf[:min(int64(len(s.buf)), e.Length-in, s.size-s.off)], e.Physical+in)
			s.off += int64(n)
			return s.buf[:n], err
		}
	}
	return nil, io.EOF
}

func (s *ceilingSource) End(_ *[manysha.Size]byte, err error) {
	if err != nil {
		s.w.err = err
	}
	s.w.idle = append(s.w.idle, s)
}
