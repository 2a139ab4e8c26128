package verifier

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
)

// eventRun is the longest beginning of pending that holds file events of one
// agent about one target, so that a burst costs one commit.
func eventRun(pending []store.Record) []store.Record {
	target := ""
	for i, r := range pending {
		if r.Record.Kind != remote.KindEvent || r.Stream != pending[0].Stream {
			return pending[:i]
		}
		var e struct {
			Target string `json:"target"`
		}
		if json.Unmarshal(r.Record.Body, &e) != nil {
			e.Target = ""
		}
		if i == 0 {
			target = e.Target
		} else if e.Target != target {
			return pending[:i]
		}
	}
	return pending
}

// taking is the handling of one run of events.
type taking struct {
	v       *Verifier
	ctx     context.Context
	m       *machine
	files   *filesOf
	changes []store.Change
	events  map[string]*remote.FileEvent // written in this run, by ID
	reviews map[string]*doc[reviewEntry] // read or changed in this run
	stored  map[string]*remote.FileEvent // the last of before, once they were looked at
}

// takeEvents judges a run of file events.
func (v *Verifier) takeEvents(ctx context.Context, run []store.Record) error {
	var first remote.Event
	var agent *doc[machine]
	err := json.Unmarshal(run[0].Record.Body, &first)
	if err != nil {
		err = &badRecordError{fmt.Errorf("body of the event record: %w", err)}
	} else {
		agent, err = v.targetOf(ctx, run[0], first.Target)
	}
	if bad, ok := asBadRecord(err); ok {
		for _, r := range run {
			if err := v.refuseRecord(ctx, r, bad); err != nil {
				return err
			}
		}
		return nil
	}
	if err != nil {
		return err
	}
	ids := make([]int64, len(run))
	for i, r := range run {
		ids[i] = r.ID
	}
	return v.changeBy(ctx, run[0], first.Target, ids, func(m *machine) ([]store.Change, error) {
		files, err := v.filesOf(ctx, m)
		if err != nil {
			return nil, err
		}
		m.Watcher = agent.V.tag()
		t := &taking{v: v, ctx: ctx, m: m, files: files, events: make(map[string]*remote.FileEvent), reviews: make(map[string]*doc[reviewEntry])}
		for _, r := range run {
			if err := t.take(r); err != nil {
				return nil, err
			}
		}
		return t.result(), nil
	})
}

// take handles one event record; one that is malformed is noted and skipped.
func (t *taking) take(r store.Record) error {
	var e remote.Event
	event := new(filewatch.Event)
	err := json.Unmarshal(r.Record.Body, &e)
	if err == nil {
		err = json.Unmarshal(e.Event, event)
	}
	if err == nil {
		err = remote.CheckName(e.Stream)
	}
	if err != nil {
		t.note("file", remote.SeverityAlert, "", "a file event of %s was refused: %v", t.m.Name, err)
		return nil
	}
	t.m.LastSeen, t.m.Files.Watched = r.Received, true
	fresh, err := t.sequence(&e)
	if err != nil || !fresh {
		return err
	}
	if e.Follows != 0 {
		return t.complete(&e, event)
	}
	return t.add(&e, event, r)
}

// sequence follows the numbers of a stream and says whether e is new.
func (t *taking) sequence(e *remote.Event) (fresh bool, err error) {
	m := t.m
	if m.Stream != e.Stream {
		first := m.Stream == ""
		if !first {
			t.note("loss", remote.SeverityWarning, "", "%s", watchAnew(m))
			err = t.lose(lostAnew)
		}
		m.begin(e.Stream)
		if first && !m.Began.IsZero() && e.Sequence > 0 {
			m.Sequence = e.Sequence - 1 // those before were about a machine that was retired
		}
	}
	switch {
	case err != nil:
		return false, err
	case e.Sequence <= m.Sequence:
		return false, nil
	case e.Sequence > m.Sequence+1 && m.toldLost(m.Sequence+1, e.Sequence-1):
	case e.Sequence > m.Sequence+1:
		t.note("loss", remote.SeverityAlert, "", "file events %d to %d of %s never arrived", m.Sequence+1, e.Sequence-1, m.Name)
		err = t.lose(lostEvents)
	}
	m.Sequence = e.Sequence
	return true, err
}

// Why rescans are asked for.
const (
	lostAnew   = "the watch began anew"
	lostEvents = "file events were lost"
)

func watchAnew(m *machine) string {
	return "the watch on " + m.Name + " began anew: what happened in between was not seen"
}

// lose asks for a rescan, once.
func (t *taking) lose(why string) error {
	changes, err := t.v.lose(t.ctx, t.m, why)
	t.changes = append(t.changes, changes...)
	return err
}

// add stores a new event with what can be said of it at once.
func (t *taking) add(e *remote.Event, event *filewatch.Event, r store.Record) error {
	var seen *baseline.Record
	var names []string
	if diskPath(event) {
		if seen = t.seenOf(e); seen != nil {
			names = seen.Names
		}
	}
	rule, err := t.files.ruleOf(event, event.Object, names...)
	if err != nil {
		return err
	}
	f := &remote.FileEvent{
		ID: eventID(t.m.tag(), e.Stream, e.Sequence), Machine: t.m.Name, Sequence: e.Sequence,
		Time: event.Time, Since: event.Since, Received: r.Received, Op: event.Op.String(),
		Path: filewatch.PrintablePath(event.Path), NewPath: filewatch.PrintablePath(event.NewPath),
		Actor: actorWords(&event.Actor), Level: rule.Level.String(), Event: e.Event,
	}
	t.events[f.ID] = f
	t.m.Files.Events++
	t.m.Files.LastEvent = event.Time
	t.v.metrics.events.WithLabelValues(f.Level).Inc()
	if rule.Level == filewatch.Protect {
		t.note("file", remote.SeverityAlert, f.ID, "%s of protected %s on %s by %s", f.Op, pathWords(f), t.m.Name, f.Actor)
	}
	switch {
	case rule.Level <= filewatch.Record || event.Op == filewatch.OpExec:
		f.Verdict = remote.VerdictRecorded
		if diskPath(event) && event.Below > 0 && event.Level > filewatch.Record && t.files.base != nil {
			return t.unjudged() // what moved along may be held to more than the directory is
		}
	case event.Status == filewatch.Denied:
		f.Verdict, f.Detail = remote.VerdictRecorded, "refused before it happened"
	case t.files.base == nil:
		f.Verdict, f.Detail = remote.VerdictUnknown, "there is no baseline to compare with"
	case event.Status == filewatch.Found:
		return t.judgeFound(f, e, event, seen)
	case event.Status == filewatch.Ongoing && seen != nil:
		return t.judgeOngoing(f, event, seen)
	case event.Object == nil && event.Status == filewatch.Done && removes(event.Op) && event.Path != "":
		return t.judge(f, event, nil, false)
	case event.Object == nil:
		// Nothing follows an event of which not even the object is known.
		return t.notMeasured(f, "the event does not tell which object it is about")
	case event.Status != filewatch.Done || settles(event.Op):
		f.Verdict, f.Detail = remote.VerdictPending, "it is compared once it is on disk"
	default:
		return t.judgeNow(f, event)
	}
	return nil
}

// pathWords name both paths of an event that has two.
func pathWords(f *remote.FileEvent) string {
	if f.NewPath == "" {
		return f.Path
	}
	return strings.TrimLeft(f.Path+" to "+f.NewPath, " ")
}

// settles says that an operation is not over with its event: a file that is
// truncated and written anew with the same content has not changed, and must
// not alarm anybody in between.
func settles(op filewatch.Op) bool {
	switch op {
	case filewatch.OpWrite, filewatch.OpTruncate, filewatch.OpFallocate, filewatch.OpUtimes:
		return true
	}
	return false
}

// removes says that an operation takes a name away.
func removes(op filewatch.Op) bool { return op == filewatch.OpUnlink || op == filewatch.OpRmdir }

// inMemory is what an event tells of an object from the guest's inode in
// memory: neither its content nor its links.
const inMemory = filewatch.AttrType | filewatch.AttrSize | filewatch.AttrMode | filewatch.AttrUID | filewatch.AttrGID |
	filewatch.AttrInode | filewatch.AttrMtime | filewatch.AttrCtime

// onDisk is what reading an object from the disk tells: all but its other names.
const onDisk = ^filewatch.AttrNames

// judgeNow compares what is known the moment of the operation.
func (t *taking) judgeNow(f *remote.FileEvent, event *filewatch.Event) error {
	if removes(event.Op) {
		return t.judge(f, event, nil, false)
	}
	found := &baseline.Observed{Known: inMemory, Record: baseline.Record{Object: *event.Object, Names: []string{event.PathNow()}}}
	if err := t.judge(f, event, found, true); err != nil {
		return err
	}
	if f.Verdict == remote.VerdictUnknown {
		f.Verdict, f.Detail = remote.VerdictPending, "its content is compared once it is on disk"
	}
	return nil
}

// complete judges an earlier event with the object as it was found on disk.
func (t *taking) complete(e *remote.Event, settled *filewatch.Event) error {
	f, err := t.event(eventID(t.m.tag(), e.Stream, e.Follows))
	if f == nil || err != nil {
		return err // an event that was lost is known to be
	}
	event := new(filewatch.Event)
	if err := json.Unmarshal(f.Event, event); err != nil {
		return fmt.Errorf("stored event %s: %w", f.ID, err)
	}
	if t.files.base == nil {
		return nil
	}
	if f.Verdict == remote.VerdictRecorded && event.Op == filewatch.OpExec {
		return nil
	}
	if len(e.Object) == 0 || string(e.Object) == "null" {
		switch {
		case f.Verdict == remote.VerdictPending:
		case diskPath(event) && f.Verdict != remote.VerdictRecorded:
			return t.unjudged() // what it was compared with had another content, or none
		default:
			return nil
		}
		return t.notMeasured(f, settled.Verdict.Reason)
	}
	found := &baseline.Observed{Known: onDisk}
	if err := json.Unmarshal(e.Object, &found.Record); err != nil {
		t.note("file", remote.SeverityAlert, f.ID, "the object behind a file event of %s was refused: %v", t.m.Name, err)
		return nil
	}
	if len(found.Names) == 0 {
		found.Names = []string{event.PathNow()}
	}
	if diskPath(event) {
		event, found = settled, observed(&found.Record) // it may be elsewhere by now
	}
	if f.Verdict == remote.VerdictRecorded {
		// What is on the disk may be an object of the baseline where the event
		// did not say so.
		rule, err := t.files.ruleOf(event, &found.Object)
		if err != nil || rule.Level <= filewatch.Record || event.Status == filewatch.Denied {
			return err
		}
		f.Level = rule.Level.String()
	}
	if err := t.overtake(f); err != nil {
		return err
	}
	return t.judge(f, event, found, false)
}

// maxOvertaken is how far back events are looked for that wait in vain.
const maxOvertaken = 200

// overtake closes the earlier events about an object that still wait: what it
// was between them and f was never on disk.
func (t *taking) overtake(f *remote.FileEvent) error {
	path := cmp.Or(f.Path, f.NewPath) // without the first a link gave the object its only name
	if path == "" {
		return nil // nothing says which are about it
	}
	if t.stored == nil {
		docs, err := list[remote.FileEvent](t.ctx, t.v.store, store.Query{Collection: inEvents, Machine: t.m.Name, Limit: maxOvertaken})
		if err != nil {
			return err
		}
		t.stored = make(map[string]*remote.FileEvent)
		for _, d := range docs {
			t.stored[d.Key] = &d.V
		}
	}
	maps.Copy(t.stored, t.events)
	for id, e := range t.stored {
		if e.Verdict == remote.VerdictPending && earlier(id, f.ID) && (e.Path == path || e.NewPath == path) {
			e.Verdict, e.Detail = remote.VerdictOvertaken, "a later "+f.Op+" was compared instead"
			t.events[id] = e
		}
	}
	return nil
}

// earlier says that an event came before another of the same stream.
func earlier(id, than string) bool {
	stream := len(than) - sequenceDigits
	return len(id) == len(than) && id[:stream] == than[:stream] && id < than
}

// event finds an event of this run or of before, nil if there is none.
func (t *taking) event(id string) (*remote.FileEvent, error) {
	if f := t.events[id]; f != nil {
		return f, nil
	}
	d, err := load[remote.FileEvent](t.ctx, t.v.store, inEvents, id)
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	t.events[id] = &d.V
	return &d.V, nil
}

// judge compares the object, nil when it is gone, with the baseline. settles says that it
// will be called again for the event, with what is on disk then.
func (t *taking) judge(f *remote.FileEvent, event *filewatch.Event, found *baseline.Observed, settles bool) error {
	path := event.PathNow()
	var record *baseline.Record
	if found != nil {
		record = &found.Record
	}
	want, err := t.files.wanted(path, event, record)
	if err != nil {
		return err
	}
	if found != nil && want != nil {
		found.Prefix = baseline.PrefixOf(want, &found.Record)
	}
	change := baseline.Judge(t.files.rules, path, want, found)
	if change != nil {
		t.v.explain(t.m.Name, change)
	}
	left, err := t.leftRotation(event, found)
	if err != nil {
		return err
	}
	moved := change != nil && change.Kind == baseline.Unmeasured && want != nil && want.Path() != path
	if change != nil && (change.Counts() || moved) && baseline.MayBeRotation(t.files.rules, change) {
		f.Verdict, f.Detail, f.Changes = remote.VerdictUnknown, "a log's rotation does this too; a rescan tells which it is", encode(change)
		return t.suspectRotation(settles)
	}
	if left {
		if err := t.suspectRotation(settles); err != nil {
			return err
		}
	}
	if left && (change == nil || !change.Counts()) {
		f.Verdict, f.Detail, f.Changes = remote.VerdictUnknown, "what a log had may have been here; a rescan tells", nil
		return nil
	}
	verdict := baseline.VerdictOf(change)
	f.Verdict, f.Detail, f.Changes = verdictWord(change, verdict), verdict.Reason, nil
	if f.Verdict == remote.VerdictUnknown && diskPath(event) && !settles {
		if err := t.unjudged(); err != nil {
			return err
		}
	}
	if change != nil {
		f.Changes = encode(change)
	}
	subject := path
	if want != nil {
		subject = want.Path()
	}
	return t.review(subject, f, change)
}

// verdictWord says in one word what comparing came to.
func verdictWord(c *baseline.Change, verdict filewatch.Verdict) string {
	switch {
	case c == nil:
		return remote.VerdictUnchanged
	case c.Kind == baseline.Unmeasured:
		return remote.VerdictUnknown
	case verdict.Outcome == filewatch.Pass:
		return remote.VerdictRecorded
	}
	return string(c.Kind)
}

// result is everything that the run wrote.
func (t *taking) result() []store.Change {
	for id, f := range t.events {
		t.changes = append(t.changes, put(inEvents, id, f.Machine, f.Time, f))
	}
	for _, r := range t.reviews {
		t.changes = append(t.changes, r.change())
	}
	return t.changes
}

func (t *taking) note(kind string, s remote.Severity, ref, format string, args ...any) {
	t.changes = append(t.changes, t.v.moment(remote.Moment{Machine: t.m.Name, Kind: kind, Severity: s,
		Text: fmt.Sprintf(format, args...), Ref: ref})...)
}

// sequenceDigits are the hexadecimal digits of a number at the end of an ID.
const sequenceDigits = 16

// eventID sorts by number within a stream.
func eventID(tag, stream string, sequence uint64) string {
	return fmt.Sprintf("%s.%s.%0*x", tag, stream, sequenceDigits, sequence)
}

// reviewID is the same for every event about one object of one machine. It is
// long enough that a guest, which chooses its paths, finds no two with the same:
// the second would hide behind the first.
func reviewID(tag, path string) string {
	sum := sha256.Sum256([]byte(tag + "\x00" + path))
	return hex.EncodeToString(sum[:16])
}

func actorWords(a *filewatch.Actor) string {
	if a.Unknown != "" {
		return "unknown: " + a.Unknown
	}
	return fmt.Sprintf("%s (pid %d, uid %d)", filewatch.PrintablePath(a.Name), a.PID, a.UID)
}
