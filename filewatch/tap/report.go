package tap

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// unknownActor is who did it, as far as a disk tells.
const unknownActor = "seen on the disk path, when the guest had written it back: the disk does not say who did it"

// settling is how long a content may take from the guest's memory to its disk. Linux
// writes back what is older than 30 s (vm.dirty_expire_centisecs), looking every 5 s;
// ext4 and XFS then say in a later transaction that the space is written.
const settling = 40 * time.Second

// maxWaiting and maxWaitingPaths, which is in bytes, bound the objects whose content is
// waited for; beyond that it is judged as it is.
const (
	maxWaiting      = 1 << 16
	maxWaitingPaths = 32 << 20
)

// waiting is an event about a content that may be still on its way.
type waiting struct {
	event filewatch.Event
	until time.Time
	// last is when it is waited for no longer, however often it is written again.
	last time.Time
}

// puttingOff is how many times settling a content is waited for that is written again and
// again: one that is replaced by what it was comes to rest meanwhile.
const puttingOff = 3

// wait has an object's content waited for.
func (s *Source) wait(key string, w *waiting) {
	s.drop(key)
	s.waiting[key] = w
	s.waitingPaths += w.paths()
}

// drop ends that.
func (s *Source) drop(key string) {
	if w := s.waiting[key]; w != nil {
		s.waitingPaths -= w.paths()
		delete(s.waiting, key)
	}
}

func (w *waiting) paths() int { return len(w.event.Path) + len(w.event.NewPath) }

// report makes events of a look.
type report struct {
	*look
	source *Source
	emit   func(*filewatch.Event) error
	broken map[string]bool // volumes of which parts could not be read
	// moved are directories whose name changed, by their old path; taken are names
	// that objects got. held is how many bytes of paths are in both.
	moved map[string]moved
	taken map[string]taken
	held  int
	// full says that there was no room for some of taken.
	full bool
	// promised are the paths of contents that were waited for when the look began, and
	// until when at most: who puts another object there puts off nothing.
	promised map[string]time.Time
}

// taken is what a name was given to.
type taken struct {
	id    filewatch.ID
	from  string // its path before, of a rename
	level filewatch.Level
}

// moved is a directory that has another path, and how many events of objects below it
// are left out for its own.
type moved struct {
	to    string
	level filewatch.Level
	below int
}

// maxMoved, maxTaken and maxPaths, which is in bytes, bound what is held of one look.
const (
	maxMoved = 1 << 14
	maxTaken = 1 << 17
	maxPaths = 64 << 20
)

// run emits the events of a look.
func (r *report) run() error {
	for _, g := range r.gaps {
		r.broken[g.Volume] = true
	}
	due := func([]byte) bool { return false }
	if err := r.pairs(due, r.survey); err != nil {
		return err
	}
	if len(r.moved) > 0 {
		if err := r.pairs(due, r.count); err != nil {
			return err
		}
	}
	r.promises()
	waited := map[string]bool{}
	for key, w := range r.source.waiting {
		if time.Now().After(w.until) {
			waited[key] = true
		}
	}
	if err := r.pairs(func(key []byte) bool { return waited[string(key)] }, r.tell); err != nil {
		return err
	}
	for key := range waited {
		if w := r.source.waiting[key]; w != nil && time.Now().After(w.until) {
			r.source.drop(key)
			if err := r.complete(w, nil, "it could not be looked at again"); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *report) promises() {
	r.promised = make(map[string]time.Time, len(r.source.waiting))
	for _, w := range r.source.waiting {
		path := w.event.PathNow()
		if last, ok := r.promised[path]; !ok || w.last.Before(last) {
			r.promised[path] = w.last
		}
	}
}

// compare is Compare, of volumes that were there before.
func (r *report) compare(old, new *State) []Operation {
	if old == nil && slices.Contains(r.come, new.Volume) {
		return nil
	}
	return Compare(old, new)
}

// survey notes directories that moved and names that were taken.
func (r *report) survey(old, new *State) error {
	operations := r.compare(old, new)
	if len(operations) == 0 {
		return nil
	}
	level := r.rule(old, new).Level
	for _, o := range operations {
		name := o.NewPath
		switch o.Op {
		case filewatch.OpCreate, filewatch.OpMkdir, filewatch.OpMknod, filewatch.OpSymlink:
			name = o.Path
		case filewatch.OpRename:
			if o.Object.Type == filewatch.TypeDir && len(r.moved) < maxMoved && r.room(o.Path, o.NewPath) {
				r.moved[o.Path] = moved{to: o.NewPath, level: level}
			}
		}
		if name == "" {
			continue
		}
		t := taken{id: o.Object.ID(), level: level}
		if o.Op == filewatch.OpRename {
			t.from = o.Path
		}
		if len(r.taken) < maxTaken && r.room(name, t.from) {
			r.taken[name] = t
		} else {
			r.full = true
		}
	}
	return nil
}

// room says whether two more paths are held.
func (r *report) room(a, b string) bool {
	if r.held+len(a)+len(b) > maxPaths {
		return false
	}
	r.held += len(a) + len(b)
	return true
}

// count counts the events that those of directories stand for.
func (r *report) count(old, new *State) error {
	for _, o := range r.compare(old, new) {
		if dir, ok := r.below(&o, r.rule(old, new).Level); ok {
			m := r.moved[dir]
			m.below++
			r.moved[dir] = m
		}
	}
	return nil
}

// below gives the directory by whose renaming an object has another path, where the
// event of that is of the same level or a stricter one.
func (r *report) below(o *Operation, level filewatch.Level) (dir string, ok bool) {
	if o.Op != filewatch.OpRename || len(r.moved) == 0 {
		return "", false
	}
	for dir = path.Dir(o.Path); ; dir = path.Dir(dir) {
		if m, is := r.moved[dir]; is && m.level >= level && o.NewPath == m.to+o.Path[len(dir):] {
			return dir, true
		}
		if len(dir) <= 1 {
			return "", false
		}
	}
}

// rule is the strictest for any name of an object, before, after and on record.
func (r *report) rule(old, new *State) filewatch.Rule {
	var names []string
	var best filewatch.Rule
	for _, s := range []*State{new, old} {
		if s != nil {
			names = append(names, s.Names...)
			if s.Cut {
				names = append(names, s.Strictest)
			}
		}
	}
	for i, s := range []*State{new, old} {
		if s == nil {
			continue
		}
		all := names
		if r.look.names != nil {
			all = append(slices.Clone(names), r.look.names(s.ID())...)
		}
		if rule := r.rules.MatchNames(all, &s.Object); i == 0 || best.Name == "" || rule.Level > best.Level {
			best = rule
		}
	}
	return best
}

// tell emits the events of one object.
func (r *report) tell(old, new *State) error {
	operations := r.compare(old, new)
	if len(operations) == 0 {
		return r.settled(new)
	}
	rule := r.rule(old, new)
	var gone *State
	if new != nil && old != nil && !sameObject(old, new) {
		gone = old // the first operations are of what is no more
	}
	var key string
	var before *waiting
	if old != nil {
		key = string(appendKey(nil, old.Volume, old.Inode))
		before = r.source.waiting[key]
	}
	ended := new == nil || gone != nil
	told := rule.Level > filewatch.Ignore
	over := told && ended // another event says what became of the content
	for i := range operations {
		o := &operations[i]
		if _, ok := r.below(o, rule.Level); ok || !told {
			continue
		}
		is := new
		if gone != nil && o.Object == &gone.Object {
			is = nil
		}
		if err := r.one(o, rule, is); err != nil {
			return err
		}
		over = over || contentOp(o.Op)
	}
	switch {
	case before == nil || r.source.waiting[key] != before:
		return nil
	case over:
		r.source.drop(key)
	case !told:
		r.source.drop(key)
		return r.complete(before, nil, "it changed since, where the rules do not tell what became of it")
	case time.Now().After(before.until):
		return r.settled(new)
	}
	return nil
}

// one emits the event of an operation; is is what there is of the object now.
func (r *report) one(o *Operation, rule filewatch.Rule, is *State) error {
	e := &filewatch.Event{Target: r.source.Target, Time: r.at, Since: r.since, Op: o.Op, Path: o.Path, NewPath: o.NewPath,
		Object: o.Object, Actor: filewatch.Actor{Unknown: unknownActor}, Level: rule.Level, Rule: rule.Name, Source: "tap",
		Status: filewatch.Found}
	details := []string{}
	detail := func(format string, args ...any) { details = append(details, fmt.Sprintf(format, args...)) }
	if o.Detail != "" {
		details = append(details, o.Detail)
	}
	if m := r.moved[o.Path]; o.Op == filewatch.OpRename && m.to == o.NewPath && m.below > 0 {
		detail("%d objects below it moved along", m.below)
		e.Below = m.below
	}
	waits := is != nil && is.Unsettled && contentOp(o.Op) && e.Level >= filewatch.Verify
	judged, along := false, false // what has the name now: by its own event; with its directory
	if o.Op == filewatch.OpUnlink || o.Op == filewatch.OpRmdir {
		is = nil
		if by, ok := r.taken[o.Path]; ok {
			detail("inode %d has its name now", by.id.Inode)
			if by.from != "" {
				_, along = r.below(&Operation{Op: filewatch.OpRename, Path: by.from, NewPath: o.Path}, by.level)
			}
			judged = by.level > filewatch.Ignore && !along
		}
		if r.broken[o.Object.Volume] {
			detail("parts of the volume could not be read: it may be there")
		}
	}
	key, now := "", time.Now()
	until, last := now.Add(r.source.settling), now.Add(puttingOff*r.source.settling)
	if waits {
		key = string(appendKey(nil, is.Volume, is.Inode))
		if w := r.source.waiting[key]; w != nil && w.event.Object.Generation == is.Generation {
			last = w.last
		}
		if promised, ok := r.promised[e.PathNow()]; ok && promised.Before(last) {
			last = promised
		}
		if until.After(last) {
			until = last
		}
		if waits = now.Before(until) && len(r.source.waiting) < maxWaiting && r.source.waitingPaths < maxWaitingPaths; waits {
			e.Status = filewatch.Ongoing
			detail("its content may be still in the guest's memory")
		}
	}
	e.Detail = strings.Join(details, "; ")
	r.hashes(e, is)
	switch {
	case judged: // of what has its name now an event tells, with the verdict
	case along:
		e.Verdict = filewatch.Verdict{Outcome: filewatch.NotMeasured, Reason: "what has its name now came with a directory that was renamed, and is not judged by itself"}
	case is == nil && (r.full || r.broken[o.Object.Volume]):
		e.Verdict = filewatch.Verdict{Outcome: filewatch.NotMeasured, Reason: "whether something else has its name now is not known"}
	case r.source.Judge != nil:
		r.source.Judge(e, is)
	}
	if err := r.source.number(e, r.emit); err != nil {
		return err
	}
	if w := r.waitingFor(is); w != nil && o.Op == filewatch.OpRename {
		if promised, ok := r.promised[o.NewPath]; ok && promised.Before(w.last) {
			w.last = promised
			if w.until.After(promised) {
				w.until = promised
			}
		}
	}
	if waits {
		// Not the whole state: it may be large.
		object := *e.Object
		object.Xattrs, object.Link = nil, ""
		w := &waiting{*e, until, last}
		w.event.Object, w.event.Detail = &object, ""
		r.source.wait(key, w)
	}
	return nil
}

// waitingFor is the event that waits for an object's content, or nil.
func (r *report) waitingFor(s *State) *waiting {
	if s == nil {
		return nil
	}
	return r.source.waiting[string(appendKey(nil, s.Volume, s.Inode))]
}

// contentOp says that an operation leaves a new content.
func contentOp(op filewatch.Op) bool {
	return op == filewatch.OpCreate || op == filewatch.OpWrite
}

// hashes puts the digests of a content that has come to rest into its event.
func (r *report) hashes(e *filewatch.Event, s *State) {
	if s == nil || s.Unread != "" || e.Status == filewatch.Ongoing {
		return
	}
	for _, d := range []struct {
		name string
		sum  Digest
	}{{"BLAKE3", s.BLAKE3}, {"SHA-256", s.SHA256}} {
		if d.sum != (Digest{}) {
			e.Hashes = append(e.Hashes, filewatch.Hash{Algorithm: d.name, Value: bytes.Clone(d.sum[:])})
		}
	}
}

// settled completes an event whose content was waited for and is what it was.
func (r *report) settled(s *State) error {
	w := r.waitingFor(s)
	if w == nil {
		return nil
	}
	r.source.drop(string(appendKey(nil, s.Volume, s.Inode)))
	if s.Generation != w.event.Object.Generation {
		return r.complete(w, nil, "another object has its inode now")
	}
	return r.complete(w, s, "")
}

// complete emits what follows an event whose content was waited for; s is nil where that
// is not known, for the reason why.
func (r *report) complete(w *waiting, s *State, why string) error {
	e := w.event
	e.Follows, e.Time, e.Status, e.Detail = e.Sequence, r.at, filewatch.Found, ""
	if s == nil {
		e.Verdict = filewatch.Verdict{Outcome: filewatch.NotMeasured, Reason: why}
		return r.source.number(&e, r.emit)
	}
	e.Object, e.Verdict = &s.Object, filewatch.Verdict{}
	if _, there := slices.BinarySearch(s.Names, e.PathNow()); !there && len(s.Names) > 0 {
		e.Path, e.NewPath = s.name(), "" // with its directory, or by an event of its own
	}
	r.hashes(&e, s)
	if r.source.Judge != nil {
		r.source.Judge(&e, s)
	}
	if e.Verdict.Outcome == filewatch.NotJudged && s.Unread != "" {
		e.Verdict = filewatch.Verdict{Outcome: filewatch.NotMeasured, Reason: s.Unread}
	}
	return r.source.number(&e, r.emit)
}
