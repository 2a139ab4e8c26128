package vm

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/trap"
	"github.com/plumbline-sec/plumbline/filewatch/trap/qemutcg"
	"github.com/plumbline-sec/plumbline/filewatch/volume"
	"github.com/plumbline-sec/plumbline/internal/qmp"
)

// settlement follows the objects of one Events call to the disk and judges
// what is known of them.
type settlement struct {
	w       *Watcher
	settler trap.Settler
	source  *trap.Source
	images  []string
	fail    context.CancelCauseFunc
	emit    func(*filewatch.Event) error

	unwritten reserved // used by read only, which Settler calls from one goroutine

	mu   sync.Mutex
	conn *qemutcg.Conn // of the kernel that runs now
}

func (w *Watcher) newSettlement(fail context.CancelCauseFunc, emit func(*filewatch.Event) error) *settlement {
	s := &settlement{w: w, images: w.Images, fail: fail, emit: emit}
	s.settler = trap.Settler{Look: s.look, Open: s.open, Read: s.read, Done: s.done}
	return s
}

// attach makes conn the view of the guest's memory. What was waited for in the
// memory of an earlier kernel is on disk or lost.
func (s *settlement) attach(conn *qemutcg.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		s.settler.Forget(errors.New("the machine was reset before it was on disk"))
	}
	s.conn = conn
}

// seen judges an event by what is known now and waits for the rest.
func (s *settlement) seen(e *filewatch.Event, r *trap.Record) {
	s.judge(e)
	if len(s.images) > 0 {
		s.settler.Add(e, r)
	}
}

// inMemory is what a record knows of an object: what lies in its inode. The
// size is left out, as it goes with the content: a file that is written anew is
// empty for a moment.
const inMemory = filewatch.AttrType | filewatch.AttrMode | filewatch.AttrUID | filewatch.AttrGID |
	filewatch.AttrNlink | filewatch.AttrInode | filewatch.AttrMtime | filewatch.AttrCtime

func (s *settlement) judge(e *filewatch.Event) {
	if s.w.Index == nil || e.Status != filewatch.Done {
		return
	}
	path := e.PathNow()
	got := &baseline.Observed{Record: baseline.Record{Object: *e.Object, Names: []string{path}}, Known: inMemory}
	if e.Op == filewatch.OpUnlink || e.Op == filewatch.OpRmdir {
		got = nil
	}
	e.Verdict = verdict(s.w.Index, s.w.Rules, path, got)
}

// verdict is that of a baseline on what is known of an object.
func verdict(index *baseline.Index, rules *filewatch.Rules, path string, got *baseline.Observed) filewatch.Verdict {
	change, err := index.Judge(rules, path, got)
	if err != nil {
		return filewatch.Verdict{Outcome: filewatch.NotMeasured, Reason: err.Error()}
	}
	return baseline.VerdictOf(change)
}

func (s *settlement) look(ctx context.Context, r *trap.Record) (trap.Live, error) {
	s.mu.Lock()
	conn := s.conn
	s.mu.Unlock()
	return conn.Look(ctx, &r.Object)
}

// open opens the disks as they are now, anew each time: a journal that has
// grown is another disk.
func (s *settlement) open(ctx context.Context) (trap.Disk, error) {
	files, err := OpenFiles(ctx, &Place{Name: s.w.Target, QMP: s.w.QMP, Images: s.images, Backing: s.w.Backing})
	if err != nil {
		return nil, err
	}
	return diskNow{files}, nil
}

// diskNow implements trap.Disk.
type diskNow struct{ *Files }

func (d diskNow) volume(id string) *volume.Volume {
	for _, m := range d.Mounts {
		if m.Volume.ID() == id {
			return m.Volume
		}
	}
	return nil
}

func (d diskNow) Object(id filewatch.ID) (*filewatch.Object, error) {
	v := d.volume(id.Volume)
	if v == nil {
		return nil, fmt.Errorf("volume %s is on none of the disks", id.Volume)
	}
	o, _, err := v.Object(id.Inode)
	if err != nil {
		return nil, err
	}
	if o.Generation != id.Generation || o.Nlink == 0 {
		return nil, trap.ErrGone
	}
	o.Volume = id.Volume
	return o, nil
}

// digests are the result of reading an object.
type digests struct{ blake3, sha256 baseline.Digest }

// read makes both digests: which one a rule asks for is for the judge to know.
func (s *settlement) read(disk trap.Disk, o *filewatch.Object) (any, error) {
	var d digests
	if o.Type != filewatch.TypeFile {
		return d, nil
	}
	v := disk.(diskNow).volume(o.Volume)
	now, where, err := v.Object(o.Inode)
	if err != nil {
		return nil, err
	}
	if err := s.unwritten.check(now, where, time.Now()); err != nil {
		return nil, err
	}
	fast, slow := blake3.New(), sha256.New()
	if _, err := v.Open(now, where).WriteTo(io.MultiWriter(fast, slow)); err != nil {
		return nil, err
	}
	sum(fast, &d.blake3)
	sum(slow, &d.sha256)
	return d, nil
}

func sum(h hash.Hash, d *baseline.Digest) { copy(d[:], h.Sum(nil)) }

// onDisk is what is known of an object that was read: all but its other names.
const onDisk = ^filewatch.AttrNames

// done emits what the wait for an object came to, as an event that follows the
// object's last.
func (s *settlement) done(settled *trap.Settled) {
	e := *settled.Event
	e.Follows, e.Time, e.Status, e.Detail, e.Source = e.Sequence, time.Now().UTC(), filewatch.Done, "", "scan"
	var record *baseline.Record
	switch {
	case errors.Is(settled.Err, trap.ErrGone):
		return // its removal has its own event
	case settled.Err != nil:
		e.Verdict = filewatch.Verdict{Outcome: filewatch.NotMeasured, Reason: settled.Err.Error()}
	default:
		record = s.found(&e, settled)
	}
	emit := s.emit
	if s.w.Settled != nil {
		emit = func(e *filewatch.Event) error { return s.w.Settled(e, record) }
	}
	if err := s.source.Number(&e, emit); err != nil {
		s.fail(err)
	}
}

// found puts the object as it is on disk into an event and judges it.
func (s *settlement) found(e *filewatch.Event, settled *trap.Settled) *baseline.Record {
	path := e.PathNow()
	d := settled.Result.(digests)
	record := &baseline.Record{Object: *settled.Object, Names: []string{path}, BLAKE3: d.blake3, SHA256: d.sha256}
	e.Path, e.NewPath, e.Object = path, "", settled.Object
	if e.Object.Type == filewatch.TypeFile {
		e.Hashes = []filewatch.Hash{{Algorithm: "BLAKE3", Value: slices.Clone(d.blake3[:])}, {Algorithm: "SHA-256", Value: slices.Clone(d.sha256[:])}}
	}
	if s.w.Index != nil {
		e.Verdict = verdict(s.w.Index, s.w.Rules, path, &baseline.Observed{Record: *record, Known: onDisk})
	}
	return record
}

// names implements trap.Baseline.
type names struct{ index *baseline.Index }

func (n names) Names(id filewatch.ID) []string {
	r, err := n.index.ID(id)
	if err != nil || r == nil {
		return nil // a damaged baseline shows when the event is judged
	}
	return r.Names
}

// findImages asks QEMU for its disk images. Only raw ones show the disk as it
// is now to someone who reads the file.
func (s *settlement) findImages(ctx context.Context) error {
	if len(s.images) > 0 {
		return nil
	}
	client, err := qmp.Dial(ctx, s.w.QMP)
	if err != nil {
		return err
	}
	defer client.Close()
	var blocks []struct {
		Device   string `json:"device"`
		QDev     string `json:"qdev"`
		Inserted *struct {
			File   string `json:"file"`
			Driver string `json:"drv"`
		} `json:"inserted"`
	}
	if err := client.Execute(ctx, "query-block", nil, &blocks); err != nil {
		return fmt.Errorf("ask QEMU for its disks: %w", err)
	}
	for _, b := range blocks {
		switch {
		case b.Inserted == nil:
		case b.Inserted.Driver == "raw":
			path := b.Inserted.File
			if !filepath.IsAbs(path) {
				path = fmt.Sprintf("/proc/%d/cwd/%s", client.PID(), path)
			}
			s.images = append(s.images, path)
		default:
			s.w.alert(filewatch.Alert{Alert: filewatch.AlertBlind, Reason: fmt.Sprintf(
				"disk %s is %s, not raw: the content of its files is not compared", cmp.Or(b.Device, b.QDev), b.Inserted.Driver)})
		}
	}
	return nil
}
