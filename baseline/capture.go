package baseline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Source is a tree of files to capture.
type Source interface {
	// Machine says whose files they are; valid before and after Scan, where
	// volumes may have been added.
	Machine() filewatch.Machine
	// Scan visits every object once, from any number of goroutines, and returns
	// what it could not see. It asks want about each regular file whether its
	// content is needed. visit gets an object with its names in the guest,
	// sorted (nil when no directory names it), the content when it was wanted
	// and can be read, and what is wrong with the object. Objects, names and
	// content are valid during the call, unless the content says that it lasts.
	// Scan itself fails only when nothing
	// sensible could be read, when ctx ends, or with visit's error.
	Scan(ctx context.Context, want WantFunc, visit VisitFunc) ([]filewatch.Gap, error)
}

// WantFunc and VisitFunc are the two halves of [Source.Scan].
type (
	WantFunc  = func(o *filewatch.Object, names []string) bool
	VisitFunc = func(o *filewatch.Object, names []string, content io.Reader, damage error) error
)

// CaptureOptions steer a capture. The zero value takes every object with every
// attribute.
type CaptureOptions struct {
	// Rules choose objects and digests; nil takes everything.
	Rules *filewatch.Rules
	// TempDir is where records are sorted when they do not fit in memory;
	// default: the system's directory for temporary files.
	TempDir string
	// Progress, if not nil, is called after each object with the size of what
	// was read of it, from several goroutines.
	Progress func(bytes int64)
	// Limit, if not nil, is told of every piece of content before it is hashed
	// and may wait: it throttles the capture.
	Limit func(ctx context.Context, bytes int) error
	// growing holds what to compare while content streams by, moved the same of the
	// rotations of logs.
	growing prefixes
	moved   movedLogs
}

// Follow prepares a capture that is compared with b: of files that only grow,
// the old content is looked for while the new one is read.
func (o *CaptureOptions) Follow(b *Baseline) error {
	o.growing, o.moved = prefixes{}, newMovedLogs()
	if !o.Rules.Asked().Has(filewatch.AttrGrowing) {
		return nil
	}
	for r, err := range b.Records() {
		if err != nil {
			return err
		}
		if o.grows(r) {
			o.follow(r)
		}
	}
	return nil
}

// follow has a growing file's old content looked for.
func (o *CaptureOptions) follow(r *Record) *prefix {
	return o.followLog(&Log{ID: r.ID(), Size: r.Size, Want: r.BLAKE3, Path: []byte(r.Path()), Mtime: r.Mtime})
}

// Snapshot is the state of a tree at one time: sorted records, not yet signed.
type Snapshot struct {
	Machine filewatch.Machine
	Gaps    []filewatch.Gap
	Objects uint64
	Unread  uint64
	Bytes   int64 // of content read
	// Reused is what was taken over; see [CaptureResumed].
	Reused  Reused
	rules   *filewatch.Rules
	growing prefixes
	sorter  *sorter
}

// Capture reads a tree. The caller closes the snapshot.
func Capture(ctx context.Context, src Source, o *CaptureOptions) (*Snapshot, error) {
	if o == nil {
		o = &CaptureOptions{}
	}
	c := newCapture(o)
	return c.run(ctx, src, func(visit VisitFunc) ([]filewatch.Gap, error) { return src.Scan(ctx, c.want, visit) })
}

func newCapture(o *CaptureOptions) *capture {
	return &capture{o: o, snap: &Snapshot{rules: o.Rules, growing: o.growing, sorter: newSorter(o.TempDir)}}
}

// run is the capture of what scan visits.
func (c *capture) run(ctx context.Context, src Source, scan func(VisitFunc) ([]filewatch.Gap, error)) (*Snapshot, error) {
	gaps, err := scan(func(obj *filewatch.Object, names []string, content io.Reader, damage error) error {
		return c.visit(ctx, obj, names, content, damage)
	})
	if err == nil {
		err = c.settle()
	}
	if err != nil {
		c.snap.Close()
		return nil, err
	}
	c.o.moved.settle()
	c.snap.Machine = src.Machine()
	c.snap.Gaps = gaps
	return c.snap, nil
}

type capture struct {
	o *CaptureOptions
	// reuse, if not nil, gives the record whose content an object still has.
	reuse func(filewatch.ID) *Record
	// progress, if not nil, keeps what is read; earlier has what of it is not read
	// again, by filewatch.ID.
	progress *Progress
	earlier  sync.Map
	mu       sync.Mutex // guards idle and what is reused
	idle     []*hasher
	snap     *Snapshot
}

// hasher takes one that nobody uses.
func (c *capture) hasher() *hasher {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := len(c.idle) - 1
	if last < 0 {
		return newHasher(c)
	}
	h := c.idle[last]
	c.idle = c.idle[:last]
	return h
}

// add takes a finished record.
func (c *capture) add(encoded []byte) error {
	if err := c.snap.sorter.add(encoded); err != nil || c.progress == nil {
		return err
	}
	return c.progress.keep(encoded)
}

func (c *capture) putBack(h *hasher) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.idle = append(c.idle, h)
}

// settle takes what the hashers have, which are all idle: records that wait, and
// counts.
func (c *capture) settle() error {
	errs := make([]error, len(c.idle))
	var wg sync.WaitGroup
	for i, h := range c.idle {
		wg.Go(func() { errs[i] = h.finish() })
	}
	wg.Wait()
	for _, h := range c.idle {
		c.snap.Objects += h.objects
		c.snap.Unread += h.unread
		c.snap.Bytes += h.bytes
	}
	return errors.Join(errs...)
}

func (c *capture) want(o *filewatch.Object, names []string) bool {
	return contentAttributes&c.o.Rules.MatchNames(names, o).Check != 0
}

// blake3Attributes are those that BLAKE3 of the content says.
const blake3Attributes = filewatch.AttrContent | filewatch.AttrGrowing

// contentAttributes are those that need the content read.
const contentAttributes = filewatch.AttrContent | filewatch.AttrSHA256 | filewatch.AttrGrowing

func (c *capture) visit(ctx context.Context, obj *filewatch.Object, names []string, content io.Reader, damage error) error {
	rule := c.o.Rules.MatchNames(names, obj)
	if rule.Level == filewatch.Ignore {
		return nil
	}
	h := c.hasher()
	defer c.putBack(h)
	r := &h.record
	*r = Record{Object: *obj, Names: names}
	if len(names) == 0 {
		// The way fsck names what no directory does.
		r.Names = []string{fmt.Sprintf("#%d", obj.Inode)}
	}
	var read int64
	var err error
	switch {
	case damage != nil:
		r.Unread = damage.Error()
	case content != nil:
		h.ctx, h.limit, h.old, h.keep = ctx, c.o.Limit, c.o.growing[obj.ID()], rule.Diff && !rule.Sealed
		h.log, h.packed = c.rotationOf(obj, names)
		if h.stream(r, content, rule.Check) {
			return h.failed
		}
		if read, err = h.sum(r, content, rule.Check); err == nil && h.keep {
			r.Text = keepText(h.text)
		}
	case obj.Type == filewatch.TypeFile && contentAttributes&rule.Check != 0 && !c.takeOver(r, &rule):
		r.Unread = "content not read"
	}
	if err := c.finish(h, r, read, err); err != nil || c.progress == nil || time.Since(h.flushed) < progressTime {
		return err
	}
	// What waits for its digest would be lost with the process.
	h.flushed = time.Now()
	err = h.flush()
	c.progress.Flush()
	return err
}

// rotationOf is the log that an object, whose content is read, is a rotation of, and
// what it is packed with. One that the baseline has is not looked into where it seems to
// have what it had, which is found out while it is read: as long as it was, and packed or
// with the same time. Else the rotations of a log would all be looked for in each other.
func (c *capture) rotationOf(obj *filewatch.Object, names []string) (log *movedLog, packed string) {
	log, name := c.o.logOf(obj, names)
	if log == nil {
		return nil, ""
	}
	for p := c.o.growing[obj.ID()]; p != nil; p = p.also {
		if p.size == obj.Size && (name.packed != "" || p.mtime.Equal(obj.Mtime)) {
			return nil, ""
		}
	}
	return log, name.packed
}

// finish gives on the record of an object, of whose content so much was read
// before err.
func (c *capture) finish(h *hasher, r *Record, read int64, err error) error {
	if err != nil {
		if h.ctx.Err() != nil {
			return context.Cause(h.ctx)
		}
		r.BLAKE3, r.SHA256, r.Unread = Digest{}, Digest{}, err.Error()
	}
	if c.o.Progress != nil {
		c.o.Progress(read)
	}
	h.count(r, read)
	return h.put(r)
}

// takeOver fills digests and text from an earlier record of the same content.
func (c *capture) takeOver(r *Record, rule *filewatch.Rule) bool {
	if c.reuse == nil {
		return false
	}
	old := c.reuse(r.ID())
	if old == nil {
		return false
	}
	if rule.Check&blake3Attributes != 0 {
		r.BLAKE3 = old.BLAKE3
	}
	if rule.Check.Has(filewatch.AttrSHA256) {
		r.SHA256 = old.SHA256
	}
	if rule.Diff && !rule.Sealed {
		r.Text = old.Text
	}
	return true
}

// Incomplete says that not everything the rules ask for could be read.
func (s *Snapshot) Incomplete() bool { return s.Unread > 0 || len(s.Gaps) > 0 }

// Close frees the snapshot's temporary file.
func (s *Snapshot) Close() { s.sorter.close() }
