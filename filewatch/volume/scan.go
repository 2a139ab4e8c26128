package volume

import (
	"cmp"
	"context"
	"runtime"
	"slices"
	"sync"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// ScanOptions steers [Volume.Scan]. The zero value reads every regular file.
type ScanOptions struct {
	// Workers is how many contents are read at once; default: one per core.
	Workers int
	// Scattered has contents read many at a time, because they lie all over the
	// volume and not behind each other.
	Scattered bool
	// Batch is how many objects are held and sorted at a time; default 4096. The
	// first batches are smaller, so that contents are read soon.
	Batch int
	// Select says whose content is wanted; default: that of regular files. It
	// is called from one goroutine, and the names that it had to find are given to
	// the visit.
	Select func(obj *filewatch.Object) (read bool, names []string)
	// Note, if not nil, is told of every object before it is visited, in inode
	// order and from one goroutine.
	Note ObjectFunc
}

// VisitFunc receives one object, with the names that Select found. The content is
// nil when it was not selected and valid during the call only; reading it ends
// with io.EOF after exactly obj.Size bytes, or with an error. Damage is as in
// [ObjectFunc]: a damaged object comes without content.
type VisitFunc func(obj *filewatch.Object, names []string, content *Content, damage error) error

// Scan visits every object once, with the contents in physical order and
// several at a time: visit is called from Workers goroutines. Memory is bounded
// by the batches, of which two are alive: one is visited while the next is
// gathered. The first error of visit ends it.
func (v *Volume) Scan(ctx context.Context, o *ScanOptions, visit VisitFunc) error {
	if v.reader == nil {
		return v.unreadable()
	}
	return v.scan(ctx, o, visit, v.reader.Objects)
}

// scan visits the objects that each gives.
func (v *Volume) scan(ctx context.Context, o *ScanOptions, visit VisitFunc, each func(context.Context, ObjectFunc) error) error {
	s := newScan(v.reader, o, visit)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for range s.workers {
		wg.Go(func() {
			if err := s.work(ctx); err != nil {
				cancel(err)
			}
		})
	}
	wg.Go(func() { s.handOut(ctx) })
	err := each(ctx, func(obj *filewatch.Object, c filewatch.Content, damage error) error {
		return s.add(ctx, obj, c, damage)
	})
	if err == nil {
		err = s.flush(ctx)
	}
	close(s.batches)
	wg.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

type scanItem struct {
	obj    *filewatch.Object
	where  filewatch.Content
	read   bool
	names  []string
	damage error
}

// placed is an item with where its content starts; what needs no reading has -1.
type placed struct {
	at int64
	*scanItem
}

type scan struct {
	reader  Reader
	visit   VisitFunc
	choose  func(*filewatch.Object) (bool, []string)
	note    ObjectFunc
	workers int
	batch   int
	// scattered is as in ScanOptions.
	scattered bool
	pending   []scanItem
	now       int // how many make the present batch
	batches   chan []placed
	queue     chan []placed
}

// firstBatch is how much smaller the first batch is.
const firstBatch = 8

func newScan(r Reader, o *ScanOptions, visit VisitFunc) *scan {
	if o == nil {
		o = &ScanOptions{}
	}
	s := &scan{reader: r, visit: visit, choose: o.Select, note: o.Note, workers: o.Workers, batch: o.Batch, scattered: o.Scattered}
	if s.workers <= 0 {
		s.workers = runtime.GOMAXPROCS(0)
	}
	if s.batch <= 0 {
		s.batch = 4096
	}
	if s.choose == nil {
		s.choose = func(obj *filewatch.Object) (bool, []string) { return obj.Type == filewatch.TypeFile, nil }
	}
	s.now = max(1, s.batch/firstBatch)
	s.batches, s.queue = make(chan []placed), make(chan []placed, s.workers)
	return s
}

func (s *scan) add(ctx context.Context, obj *filewatch.Object, c filewatch.Content, damage error) error {
	if s.note != nil {
		if err := s.note(obj, c, damage); err != nil {
			return err
		}
	}
	item := scanItem{obj: obj, where: c, damage: damage}
	if damage == nil {
		item.read, item.names = s.choose(obj)
	}
	s.pending = append(s.pending, item)
	if len(s.pending) < s.now {
		return nil
	}
	return s.flush(ctx)
}

// flush sorts what is pending and gives it on once the batch before is handed out.
func (s *scan) flush(ctx context.Context) error {
	items := make([]placed, len(s.pending))
	for i := range s.pending {
		items[i] = placed{s.pending[i].place(), &s.pending[i]}
	}
	slices.SortFunc(items, func(a, b placed) int { return cmp.Compare(a.at, b.at) })
	select {
	case s.batches <- items:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.now = min(2*s.now, s.batch)
	s.pending = make([]scanItem, 0, s.now)
	return nil
}

// handOut gives the workers runs of the batches that lie together, so that each
// reads forward.
func (s *scan) handOut(ctx context.Context) {
	defer close(s.queue)
	for items := range s.batches {
		if !s.handOutBatch(ctx, items) {
			return
		}
	}
}

func (s *scan) handOutBatch(ctx context.Context, items []placed) bool {
	most, enough := 256, int64(4<<20)
	if s.scattered {
		enough = windowSize
	}
	for start, bytes, i := 0, int64(0), 0; i < len(items); i++ {
		if items[i].read {
			bytes += items[i].obj.Size
		}
		if i+1 < len(items) && i+1-start < most && bytes < enough {
			continue
		}
		select {
		case s.queue <- items[start : i+1]:
		case <-ctx.Done():
			return false
		}
		start, bytes = i+1, 0
	}
	return true
}

// place is where the content starts; what needs no reading sorts first.
func (i *scanItem) place() int64 {
	if !i.read {
		return -1
	}
	for _, e := range i.where.Extents {
		if e.Physical >= 0 {
			return e.Physical
		}
	}
	return -1
}

// cluster is where the run of contents ends that starts with the first item
// and has no gap worth skipping. A large content is none of it: it is read in
// large pieces anyway, and not always when its turn comes.
func cluster(items []placed) int64 {
	const gap = 64 << 10
	first := items[0].at
	end := first
	for i := range items {
		at := items[i].at
		if at < first || at > end+gap || end > first+windowSize {
			break
		}
		if i == 0 || items[i].obj.Size <= gap {
			end = max(end, at+min(items[i].obj.Size, windowSize))
		}
	}
	return end
}

func (s *scan) work(ctx context.Context) error {
	w := newWindow(s.reader, make([]byte, windowSize))
	content := &Content{}
	for items := range s.queue {
		for i := range items {
			if ctx.Err() != nil {
				return nil
			}
			it := &items[i]
			var c *Content
			if it.read {
				switch {
				case s.scattered && it.at >= 0 && w.gathered.at(it.at) == nil:
					w.until = 0
					w.gather(items[i:])
				case !s.scattered && (it.at < w.start || it.at >= w.until):
					w.until = cluster(items[i:])
				}
				c = content
				*c = Content{dev: s.reader, size: it.obj.Size, where: it.where, window: w}
			}
			if err := s.visit(it.obj, it.names, c, it.damage); err != nil {
				return err
			}
		}
	}
	return nil
}
