package baseline

import (
	"context"
	"io"
	"sync"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// PlacedSource is a [Source] that knows where contents are, so that a capture can
// go on from an interrupted one.
type PlacedSource interface {
	Source
	// ScanPlaced is Scan that tells want, and visit of each content, where it is.
	ScanPlaced(ctx context.Context, want func(o *filewatch.Object, names []string, at filewatch.Where) bool,
		visit func(o *filewatch.Object, names []string, at filewatch.Where, content io.Reader, damage error) error) ([]filewatch.Gap, error)
}

// Reused says what a capture took over from interrupted ones.
type Reused struct {
	Objects uint64
	Bytes   int64
}

// CaptureResumed is [Capture] that keeps in p what it reads and takes over what
// earlier ones kept there, where the source knows that it would read the same. The
// snapshot is that of reading everything.
func CaptureResumed(ctx context.Context, src PlacedSource, p *Progress, o *CaptureOptions) (*Snapshot, error) {
	if o == nil {
		o = &CaptureOptions{}
	}
	c := &capture{o: o, progress: p, snap: &Snapshot{rules: o.Rules, growing: o.growing, sorter: newSorter(o.TempDir)}}
	var known sync.Map // of contents that are not read again
	c.reuse = func(id filewatch.ID) *Record {
		r, ok := known.LoadAndDelete(id)
		if !ok {
			return nil
		}
		return r.(*Record)
	}
	want := func(obj *filewatch.Object, names []string, at filewatch.Where) bool {
		rule := o.Rules.MatchNames(names, obj)
		if contentAttributes&rule.Check == 0 {
			return false
		}
		content := p.known(obj, at)
		if content == nil || !content.record.holds(obj, &rule) {
			return true
		}
		if growing := o.growing[obj.ID()]; growing != nil {
			growing.kept = content.kept
		}
		known.Store(obj.ID(), &content.record)
		return false
	}
	return c.run(ctx, src, func(visit VisitFunc) ([]filewatch.Gap, error) {
		gaps, err := src.ScanPlaced(ctx, want, func(obj *filewatch.Object, names []string, at filewatch.Where, content io.Reader, damage error) error {
			if content != nil && damage == nil {
				p.expect(obj, at.Place(), o.growing[obj.ID()])
			}
			return visit(obj, names, content, damage)
		})
		if err != nil {
			c.settle() // what waits for its digest was read all the same
		}
		return gaps, err
	})
}
