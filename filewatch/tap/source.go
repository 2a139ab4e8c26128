package tap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/disk"
	"github.com/plumbline-sec/plumbline/filewatch/guest"
	"github.com/plumbline-sec/plumbline/internal/qmp"
	"github.com/plumbline-sec/plumbline/internal/sorted"
)

// Source tells file operations by looking at a running machine's disks again and
// again. It implements filewatch.Source.
type Source struct {
	// Target names the machine in the events.
	Target string
	// QMP is the machine's monitor socket. It is held while a look begins and ends,
	// and in between only in rare cases.
	QMP string
	// Root is a directory for what is kept between looks, as large as names and
	// metadata of all files; it is of use to nobody after the watch.
	Root string
	// Rules select and grade the events, and say which contents are read. Nil takes
	// every one, at level verify.
	Rules *filewatch.Rules
	// Names, when not nil, gives the paths that an object has on record, whose rules
	// hold wherever it is.
	Names func(filewatch.ID) []string
	// Judge, when not nil, puts the verdict into an event. The state is nil when the
	// path is gone; while e.Status is Ongoing its content is not known. Where a name was
	// given to another object only the event of that is judged: a link at NewPath, if
	// that is of record.
	Judge func(e *filewatch.Event, now *State)
	// Alert is told of losses and interruptions, from any goroutine. Nil drops them: the
	// gap in the sequence numbers remains.
	Alert func(filewatch.Alert)
	// Bound, when not nil, is called when the first look is done: what is written
	// from then on is told.
	Bound func()
	// Monitor, when not nil, is held while the monitor is, and never while another
	// scan of the disks is waited for.
	Monitor sync.Locker
	// Resets, when not empty, is the socket of another monitor of the machine, which is
	// kept for as long as the watch lasts: resets of the guest are told then.
	Resets string
	// Every is the pause between looks; 0 means a second. After a look that took
	// long it is four times as long as that, up to a minute.
	Every time.Duration
	// Next is the sequence number of the next event; 0 means 1. It is kept current.
	Next uint64

	// settling is how long a content may be on its way; 0 means what the constant says.
	settling time.Duration
	// most is how much of the contents that changed is read in one look; 0 means
	// maxContent.
	most int64
	// looked, when not nil, is called when a look has come to its end, which tests wait for.
	looked func()

	keeper *disk.Keeper
	track  disk.Track
	kept   *kept
	memory *guest.Memory // nil: the next look is at everything
	// pid is QEMU's, down says that it was not there, since when its disks were last
	// as they are known.
	pid   int
	down  bool
	since time.Time
	// waiting are events whose content may be still on its way, by the key of their
	// object; later objects whose content is read by a later look.
	waiting      map[string]*waiting
	waitingPaths int // bytes of their paths
	later        map[filewatch.ID]bool
	told         map[string]bool // of what could not be read
	muted        time.Time       // since when that is more than is told
	trouble      string          // last one told of
	blind        atomic.Bool     // down, or in trouble
	volumes      volumes
}

var _ filewatch.Source = (*Source)(nil)

// maxContent bounds what a guest can have one look read.
const maxContent = 4 << 30

// slow is after how long a look that is not done is told of.
const slow = 30 * time.Second

// errLook is a look that came to nothing.
var errLook = errors.New("the disks could not be looked at")

// Events implements filewatch.Source. It fails at once when the first look does. Emit
// may take its time: looks wait for it, and QEMU collects meanwhile.
func (s *Source) Events(ctx context.Context, emit func(*filewatch.Event) error) (err error) {
	if s.Next == 0 {
		s.Next = 1
	}
	if s.keeper, err = disk.NewKeeper(s.Root, s.QMP); err != nil {
		return err
	}
	s.track, s.kept = s.keeper.Track, &kept{dir: sorted.Dir(s.keeper.Dir), over: map[string][]byte{}}
	if s.most == 0 {
		s.most = maxContent
	}
	if s.settling == 0 {
		s.settling = settling
	}
	s.waitingPaths = 0
	s.waiting, s.told, s.memory, s.later = map[string]*waiting{}, map[string]bool{}, nil, map[filewatch.ID]bool{}
	defer func() {
		if e := s.end(); e != nil {
			e = fmt.Errorf("take the watch out of QEMU: %w", e)
			if ctx.Err() == nil { // whoever interrupts it asks what is left
				e = errors.Join(err, e)
			}
			err = e
		}
	}()
	if err := s.once(ctx, emit); err != nil {
		return cmp.Or(ctx.Err(), err)
	}
	if err := s.machine().Sweep(ctx, s.keeper); err != nil && ctx.Err() == nil {
		s.alert(filewatch.Alert{Alert: filewatch.AlertBlind, Reason: "what a watch left that was killed could not be taken away: " + err.Error()})
	}
	s.alert(filewatch.Alert{Alert: filewatch.AlertBlind, Reason: "the disk path does not show who did it, what is only read, what is done and undone between two looks, " +
		"what the guest keeps in its memory, and until when it writes back (half a minute on Linux) what it will"})
	if s.Resets != "" {
		following, stop := context.WithCancel(ctx)
		var resets sync.WaitGroup
		resets.Go(func() { s.resets(following) })
		defer resets.Wait()
		defer stop()
	}
	if s.Bound != nil {
		s.Bound()
	}
	pause := s.every()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		began := time.Now()
		late := time.AfterFunc(slow, func() {
			s.alert(filewatch.Alert{Alert: filewatch.AlertBlind, Reason: fmt.Sprintf("a look has taken %v, or another scan of the disks, or whoever takes the events: what is done meanwhile is seen as it is then", slow)})
		})
		err := s.once(ctx, emit)
		late.Stop()
		if err == nil && s.looked != nil {
			s.looked()
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err == nil:
			pause = min(max(s.every(), 4*time.Since(began)), max(s.every(), time.Minute))
		case errors.Is(err, errLook):
			s.failed(ctx, err)
			pause = min(2*pause, max(s.every(), 30*time.Second))
		default:
			return err
		}
	}
}

func (s *Source) every() time.Duration {
	if s.Every > 0 {
		return s.Every
	}
	return time.Second
}

// once looks once. An error that is [errLook] leaves everything as it was.
func (s *Source) once(ctx context.Context, emit func(*filewatch.Event) error) error {
	began := time.Now()
	again := s.again()
	set, err := s.open(ctx, len(again) > 0)
	if err != nil {
		return fmt.Errorf("%w: %w", errLook, err)
	}
	defer set.Close()
	opened := time.Now().UTC()
	if set.Same {
		s.resumed(began)
		return nil
	}
	s.notice(ctx, set)
	l := &look{rules: s.Rules, names: s.Names, kept: s.kept, since: s.since, at: opened, most: s.most, left: s.most, waiting: len(s.later)}
	defer l.close()
	if err := s.see(ctx, l, set, again); err != nil {
		return fmt.Errorf("%w: %w", errLook, err)
	}
	// What was read is here: the guest need not wait for whoever takes the events.
	set.Keep()
	track := set.Track
	if err := set.Close(); err != nil {
		return fmt.Errorf("%w: %w", errLook, err)
	}
	s.track, s.memory = track, l.memory
	first := s.kept.base == nil // also where it was damaged
	for _, id := range again {
		delete(s.later, id)
	}
	for _, id := range l.later {
		s.later[id] = true
	}
	s.tellGaps(l, first)
	if err := s.bound(l, first); err != nil {
		return s.damaged(err)
	}
	if !first {
		r := &report{look: l, source: s, emit: emit, broken: map[string]bool{}, moved: map[string]moved{}, taken: map[string]taken{}}
		if err := r.run(); err != nil {
			return s.damaged(err)
		}
	}
	if err := l.keep(); err != nil {
		return s.damaged(err)
	}
	s.resumed(began)
	return nil
}

// open opens the disks where something was written, or there is something to look at
// again.
func (s *Source) open(ctx context.Context, again bool) (*disk.Set, error) {
	if s.kept.base == nil {
		if err := s.machine().ShowsChanges(ctx); err != nil {
			return nil, err
		}
	}
	if s.memory == nil || again {
		return s.machine().OpenSince(ctx, s.track)
	}
	return s.machine().OpenChanged(ctx, s.track)
}

func (s *Source) machine() disk.Running { return disk.Running{Socket: s.QMP, Monitor: s.Monitor} }

// again are the objects to look at whether they were written or not.
func (s *Source) again() (out []filewatch.ID) {
	now := time.Now()
	for _, w := range s.waiting {
		if now.After(w.until) {
			out = append(out, w.event.Object.ID())
		}
	}
	most := len(out) + maxAgain
	for id := range s.later {
		if len(out) == most {
			break
		}
		out = append(out, id)
	}
	return out
}

// see looks at what changed, or at everything where that is not known.
func (s *Source) see(ctx context.Context, l *look, set *disk.Set, again []filewatch.ID) error {
	if s.memory != nil && set.Lost == "" {
		err := l.changed(ctx, set, s.memory, again)
		switch {
		case err == nil || ctx.Err() != nil:
			return err
		case errors.Is(err, guest.ErrMemory):
			s.lose(filewatch.AlertGap, err.Error()+": everything is looked at")
		case !errors.Is(err, errKept) || s.damaged(err) != nil:
			return err
		}
	}
	err := l.whole(ctx, set)
	if ctx.Err() == nil && errors.Is(err, errKept) && s.damaged(err) == nil {
		err = l.whole(ctx, set)
	}
	return err
}

// damaged begins anew where what is kept of the last look is damaged; any other error
// it gives back.
func (s *Source) damaged(err error) error {
	if !errors.Is(err, errKept) {
		return err
	}
	s.lose(filewatch.AlertGap, err.Error()+": all is taken as it is at the next look at everything")
	s.kept.forget()
	s.memory = nil
	clear(s.later)
	return nil
}

// notice tells when the bitmaps do not count any more.
func (s *Source) notice(ctx context.Context, set *disk.Set) {
	pid, err := qmp.PeerPID(ctx, s.QMP)
	if err != nil {
		pid = 0
	}
	switch {
	case s.memory == nil && !s.down || set.Lost == "":
	case s.down || pid != s.pid:
		if !s.down {
			s.restarted()
		}
	default:
		s.lose(filewatch.AlertGap, set.Lost+": everything is looked at")
	}
	if set.Lost != "" {
		s.pid = pid
	}
}

// restarted tells that QEMU is not the one that was looked at.
func (s *Source) restarted() {
	s.down = true
	s.blind.Store(true)
	s.lose(filewatch.AlertRestart, "QEMU ended: what is written to the disks before it is there again is seen as it is then")
}

// resumed notes that all is known as of a moment.
func (s *Source) resumed(at time.Time) {
	if s.down || s.trouble != "" {
		s.alert(filewatch.Alert{Alert: filewatch.AlertWatch, Reason: "the disks are looked at again; what was found is of the time since " + s.since.UTC().Format(time.RFC3339)})
	}
	s.down, s.trouble, s.since = false, "", at.UTC()
	s.blind.Store(false)
}

// failed tells of a look that came to nothing, once for each reason.
func (s *Source) failed(ctx context.Context, err error) {
	if !s.runs(ctx) {
		if !s.down {
			s.restarted()
		}
		return
	}
	reason := err.Error()
	if s.trouble == reason || ctx.Err() != nil {
		return
	}
	s.trouble = reason
	s.blind.Store(true)
	s.alert(filewatch.Alert{Alert: filewatch.AlertBlind, Reason: reason})
}

// maxTold bounds what is told of parts that cannot be read.
const maxTold = 256

// tellGaps tells of what could not be read, and of volumes that came or went.
func (s *Source) tellGaps(l *look, first bool) {
	s.forget(l)
	for _, g := range l.gaps {
		text := tellable(g)
		if s.told[text] || len(s.told) > maxTold {
			continue
		}
		s.told[text] = true
		if len(s.told) > maxTold {
			text = "more than can be told one by one cannot be read"
		}
		s.alert(filewatch.Alert{Alert: filewatch.AlertBlind, Reason: text})
	}
	for _, id := range l.come {
		if !first {
			s.lose(filewatch.AlertGap, fmt.Sprintf("volume %s came: what is on it is taken as it is", id))
		}
	}
	for _, id := range l.gone {
		if !s.told["gone "+id] {
			s.told["gone "+id] = true
			s.lose(filewatch.AlertGap, fmt.Sprintf("volume %s cannot be seen any more: what becomes of its files is not told", id))
		}
	}
}

// forget drops what this look did not report any more, so that it is told when it comes
// again. A look at what changed reports only of that, and of volumes.
func (s *Source) forget(l *look) {
	still := map[string]bool{}
	for _, g := range l.gaps {
		still[tellable(g)] = true
	}
	for _, id := range l.gone {
		still["gone "+id] = true
	}
	maps.DeleteFunc(s.told, func(text string, _ bool) bool {
		return !still[text] && (l.everything || strings.HasPrefix(text, "gone "))
	})
	if len(s.told) <= maxTold {
		s.muted = time.Time{}
	} else if s.muted.IsZero() {
		s.muted = time.Now()
	} else if time.Since(s.muted) > time.Hour {
		clear(s.told)
	}
}

func tellable(g filewatch.Gap) string { return fmt.Sprintf("%s: %s", g.What, g.Reason) }

// number gives an event the next sequence number and emits it.
func (s *Source) number(e *filewatch.Event, emit func(*filewatch.Event) error) error {
	e.Sequence = s.Next
	s.Next++
	return emit(e)
}

// lose leaves out a sequence number, so that the loss shows in the events too.
func (s *Source) lose(kind, reason string) {
	first := s.Next
	s.Next++
	s.alert(filewatch.Alert{Alert: kind, First: first, Lost: 1, Reason: reason})
}

func (s *Source) alert(a filewatch.Alert) {
	if s.Alert != nil {
		s.Alert(a.Stamped(s.Target))
	}
}

// end takes the bitmaps out of QEMU and removes what was kept.
func (s *Source) end() error {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var err error
	if s.runs(ctx) {
		err = s.machine().Untrack(ctx, s.keeper.Track)
	}
	return errors.Join(err, s.keeper.Close())
}
