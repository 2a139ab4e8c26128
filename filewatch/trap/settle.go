package trap

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Live is what the guest's kernel has of an object in memory now.
type Live struct {
	// Cached says that the kernel has the object in memory at all. One that it
	// dropped is on disk whole.
	Cached bool `json:"cached"`
	// Dirty says that some of its content is not on its way to the disk yet, or
	// still on it.
	Dirty bool  `json:"dirty"`
	Size  int64 `json:"size"`
	Mtime int64 `json:"mtime"` // Unix nanoseconds
	Ctime int64 `json:"ctime"`
}

// Disk is a disk of the guest as it is now, journals replayed.
type Disk interface {
	// Object reads one object. One that is not there, or whose inode number has
	// another use now, is ErrGone.
	Object(id filewatch.ID) (*filewatch.Object, error)
	Close() error
}

// ErrGone: the disk holds no such object.
var ErrGone = errors.New("the object is not on the disk")

// Settler waits for changed objects to be on the guest's disk as the guest's
// kernel has them in memory: it writes back half a minute late. An object is
// settled when the kernel has no dirty page of it, and its size and times on
// disk, before and after it is read, are those in memory.
type Settler struct {
	// Look asks the guest's memory for the object of a record. An error means
	// that it cannot be told now.
	Look func(ctx context.Context, r *Record) (Live, error)
	// Open opens the guest's disks as they are now.
	Open func(ctx context.Context) (Disk, error)
	// Read is called with an object that is on disk as it is in memory; it
	// reads what is wanted of the content. The result goes to Done if the
	// object has not changed meanwhile.
	Read func(disk Disk, o *filewatch.Object) (any, error)
	// Done is told of each object once it is settled, or with the error that
	// ended the wait. It is called from Run.
	Done func(*Settled)
	// Every is the pause between looks; 0 means a second. Patience is how long
	// an object may take; 0 means three minutes.
	Every, Patience time.Duration

	mu      sync.Mutex
	pending map[filewatch.ID]*waiting
	crowded []*filewatch.Event // there was no room to wait for
}

// Settled is the end of a wait.
type Settled struct {
	Event  *filewatch.Event // the last event on the object
	Object *filewatch.Object
	Result any   // of Read
	Err    error // why Object and Result are not there
}

// waiting is one object and the last that happened to it.
type waiting struct {
	event  *filewatch.Event
	record *Record
	until  time.Time
	reason error
}

// Errors that end a wait.
var (
	ErrNotSettled = errors.New("not on disk as it is in memory in the time allowed")
	ErrCrowded    = errors.New("too many changed objects to wait for")
)

// maxWaiting bounds the objects waited for, and in each round those that are
// reported not to be: beyond that an event is left without what follows it.
const maxWaiting = 1 << 16

// Add waits for the object of an event, or waits anew if it is waited for
// already.
func (s *Settler) Add(e *filewatch.Event, r *Record) {
	if removed(e, r) {
		s.mu.Lock()
		delete(s.pending, e.Object.ID())
		s.mu.Unlock()
	}
	if !settles(e, r) {
		return
	}
	patience := s.Patience
	if patience == 0 {
		patience = 3 * time.Minute
	}
	w := &waiting{event: e, record: r, until: time.Now().Add(patience)}
	s.mu.Lock()
	if s.pending == nil {
		s.pending = make(map[filewatch.ID]*waiting)
	}
	if _, known := s.pending[e.Object.ID()]; !known && len(s.pending) >= maxWaiting {
		if len(s.crowded) < maxWaiting {
			s.crowded = append(s.crowded, e)
		}
	} else {
		s.pending[e.Object.ID()] = w
	}
	s.mu.Unlock()
}

// removed says whether an event took the last name of an object.
func removed(e *filewatch.Event, r *Record) bool {
	if e.Status != filewatch.Done || e.Object == nil {
		return false
	}
	return e.Op == filewatch.OpRmdir || e.Op == filewatch.OpUnlink && r.Object.Nlink <= 1
}

// settles says whether an event leaves an object on disk that is worth reading.
func settles(e *filewatch.Event, r *Record) bool {
	if e.Status == filewatch.Denied || e.Level < filewatch.Verify || e.Object == nil || e.Object.Inode == 0 {
		return false
	}
	return !removed(e, r) && r.Marks&Unlinked == 0
}

// Forget drops all that is waited for, such as after a reset of the machine.
func (s *Settler) Forget(reason error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, w := range s.pending {
		w.until, w.reason = time.Time{}, reason
	}
}

// Run works until ctx ends.
func (s *Settler) Run(ctx context.Context) {
	every := s.Every
	if every == 0 {
		every = time.Second
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		s.round(ctx)
	}
}

// round looks at everything waited for once.
func (s *Settler) round(ctx context.Context) {
	s.turnedAway()
	var disk Disk
	var diskErr error
	for id, w := range s.snapshot() {
		if ctx.Err() != nil {
			return
		}
		if w.until.IsZero() {
			s.finish(id, w, &Settled{Err: w.reason})
			continue
		}
		live, err := s.Look(ctx, w.record)
		if err == nil && !live.Dirty {
			if disk == nil && diskErr == nil {
				if disk, diskErr = s.Open(ctx); diskErr == nil {
					defer disk.Close()
				}
			}
			if err = diskErr; err == nil {
				var done *Settled
				if done, err = s.settle(ctx, disk, w, live); err == nil {
					s.finish(id, w, done)
					continue
				}
			}
		}
		if err != nil {
			w.reason = err
		}
		if time.Now().After(w.until) {
			s.finish(id, w, &Settled{Err: errors.Join(ErrNotSettled, w.reason)})
		}
	}
}

// turnedAway reports the events that there was no room for.
func (s *Settler) turnedAway() {
	s.mu.Lock()
	crowded := s.crowded
	s.crowded = nil
	s.mu.Unlock()
	for _, e := range crowded {
		s.Done(&Settled{Event: e, Err: ErrCrowded})
	}
}

func (s *Settler) snapshot() map[filewatch.ID]*waiting {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[filewatch.ID]*waiting, len(s.pending))
	for id, w := range s.pending {
		all[id] = w
	}
	return all
}

// finish tells of the end of a wait, unless something happened to the object
// since: then the wait goes on for that.
func (s *Settler) finish(id filewatch.ID, w *waiting, done *Settled) {
	s.mu.Lock()
	current := s.pending[id] == w
	if current {
		delete(s.pending, id)
	}
	s.mu.Unlock()
	if current {
		done.Event = w.event
		s.Done(done)
	}
}

// errChanging: the disk is not there yet.
var errChanging = errors.New("its inode on disk is not the one in memory")

// settle reads an object if the disk has caught up with live.
func (s *Settler) settle(ctx context.Context, disk Disk, w *waiting, live Live) (*Settled, error) {
	o, err := disk.Object(w.event.Object.ID())
	if errors.Is(err, ErrGone) && !live.Cached {
		return &Settled{Err: ErrGone}, nil
	}
	if err != nil {
		return nil, err
	}
	if !caughtUp(o, live, &w.record.Object) {
		return nil, errChanging
	}
	result, err := s.Read(disk, o)
	if err != nil {
		return nil, err
	}
	if after, err := s.Look(ctx, w.record); err != nil || after != live {
		return nil, errors.Join(errChanging, err)
	}
	return &Settled{Object: o, Result: result}, nil
}

// caughtUp compares an object on disk with what the kernel has in memory or,
// when it has it no longer, with what it had when the operation ended. Families
// keep times more coarsely on disk than in memory, whole seconds at worst (two
// in vfat), and only ever round down.
func caughtUp(o *filewatch.Object, live Live, then *Inode) bool {
	if !live.Cached {
		disk, memory := o.Ctime, then.Ctime
		if disk.IsZero() {
			disk, memory = o.Mtime, then.Mtime
		}
		return !disk.Before(time.Unix(0, memory)) || sameTime(disk, memory)
	}
	if o.Type == filewatch.TypeFile && o.Size != live.Size {
		return false
	}
	return sameTime(o.Mtime, live.Mtime) && sameTime(o.Ctime, live.Ctime)
}

func sameTime(disk time.Time, memory int64) bool {
	if disk.IsZero() {
		return true // the family has no such time
	}
	d := time.Unix(0, memory).Sub(disk)
	return d == 0 || d > 0 && d < 2*time.Second && disk.Nanosecond() == 0
}
