package baseline

import (
	"context"
	"io"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// PlacedVisitFunc is [VisitFunc] that is told where the content is, nil for none.
type PlacedVisitFunc = func(o *filewatch.Object, names []string, at filewatch.Where, content io.Reader, damage error) error

// PlacedSource is a [Source] that knows where contents are, so that a capture can
// go on from an interrupted one.
type PlacedSource interface {
	Source
	// ScanPlaced is Scan that tells want, and visit of each content, where it is.
	ScanPlaced(ctx context.Context, want func(o *filewatch.Object, names []string, at filewatch.Where) bool, visit PlacedVisitFunc) ([]filewatch.Gap, error)
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
	c := newCapture(o)
	c.progress, c.reuse = p, c.takeEarlier
	want := func(obj *filewatch.Object, names []string, at filewatch.Where) bool {
		rule := o.Rules.MatchNames(names, obj)
		return contentAttributes&rule.Check != 0 && !c.hasEarlier(obj, names, &rule, at)
	}
	return c.run(ctx, src, func(visit VisitFunc) ([]filewatch.Gap, error) {
		return c.keeping(visit, func(visit PlacedVisitFunc) ([]filewatch.Gap, error) { return src.ScanPlaced(ctx, want, visit) })
	})
}

// hasEarlier says that an earlier capture read the content that is there now, which
// takeEarlier then gives.
func (c *capture) hasEarlier(obj *filewatch.Object, names []string, rule *filewatch.Rule, at filewatch.Where) bool {
	if c.progress == nil {
		return false
	}
	if log, _ := c.rotationOf(obj, names); log != nil {
		return false // what it begins with is not kept
	}
	content := c.progress.known(obj, at)
	if content == nil || !content.record.holds(obj, rule) {
		return false
	}
	if growing := c.o.growing[obj.ID()]; growing != nil {
		if !content.kept { // or nobody looked
			return false
		}
		for p := growing; p != nil; p = p.also {
			p.kept = true
		}
	}
	c.earlier.Store(obj.ID(), &content.record)
	return true
}

func (c *capture) takeEarlier(id filewatch.ID) *Record {
	r, ok := c.earlier.LoadAndDelete(id)
	if !ok {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.snap.Reused.Objects++
	c.snap.Reused.Bytes += r.(*Record).Size
	return r.(*Record)
}

// keeping has the progress, if there is one, keep what scan visits with visit.
func (c *capture) keeping(visit VisitFunc, scan func(PlacedVisitFunc) ([]filewatch.Gap, error)) ([]filewatch.Gap, error) {
	gaps, err := scan(func(obj *filewatch.Object, names []string, at filewatch.Where, content io.Reader, damage error) error {
		if c.progress != nil && content != nil && damage == nil {
			c.progress.expect(obj, at.Place(), c.o.growing[obj.ID()])
		}
		return visit(obj, names, content, damage)
	})
	if err != nil && c.progress != nil {
		c.settle() // what waits for its digest was read all the same
	}
	return gaps, err
}
