package durable

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// MaxRecord bounds one payload, in bytes.
const MaxRecord = 64 << 20

// Errors of a spool.
var (
	ErrTooLarge = errors.New("record too large for the spool")
	// ErrFull: the spool has reached its limit; nothing was stored.
	ErrFull = errors.New("spool is full")
	// ErrLocked: another process has the spool open.
	ErrLocked = errors.New("spool is in use by another process")
	ErrClosed = errors.New("spool is closed")
	// ErrUnreadable: the disk does not give back what is in a segment. See Abandon.
	ErrUnreadable = errors.New("spool segment cannot be read")
)

// Entry is one record of a spool.
type Entry struct {
	Seq     uint64
	Payload []byte
}

// SpoolOptions are limits; the zero value has the defaults.
type SpoolOptions struct {
	SegmentBytes int64 // a segment is closed past this size; default 4 MiB
	MaxBytes     int64 // unacknowledged records are refused past this size; default 1 GiB
}

// Spool keeps records in order until they are acknowledged.
//
// Life of a record: Append numbers it and returns once it is durable; Read gives
// it, in order, as often as asked; Ack makes it durable that all records up to a
// number are done with, and then removes segments that hold no others. After a
// crash the spool has every record whose Append returned, and perhaps some whose
// Append did not. A damaged record is left out, which shows as a gap in the numbers:
// never as an error that stops what follows, nor as a number that is given twice. One
// at the very end cannot be told from what a crash left of an Append that never
// returned: its number is given again.
type Spool struct {
	opt  SpoolOptions
	dir  string
	name string
	lock *os.File

	mu       sync.Mutex
	segments []segment // ascending, the last one is written to
	active   *os.File
	size     int64 // of the active segment
	bytes    int64 // of all segments
	next     uint64
	acked    uint64
	grown    chan struct{} // closed and replaced at each Append
	closed   bool
}

type segment struct {
	first uint64 // number of its first record
	path  string
	size  int64
}

// OpenSpool opens the spool in dir and creates it where there is none.
func OpenSpool(dir string, opt SpoolOptions) (*Spool, error) {
	if opt.SegmentBytes == 0 {
		opt.SegmentBytes = 4 << 20
	}
	if opt.MaxBytes == 0 {
		opt.MaxBytes = 1 << 30
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	s := &Spool{opt: opt, dir: dir, next: 1, grown: make(chan struct{})}
	if err := s.open(); err != nil {
		if s.lock != nil {
			unlock(s.lock)
		}
		return nil, fmt.Errorf("open spool %s: %w", dir, err)
	}
	return s, nil
}

func (s *Spool) open() error {
	var err error
	if s.lock, err = os.OpenFile(filepath.Join(s.dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return err
	}
	if err := lock(s.lock); err != nil {
		return err
	}
	if err := s.loadName(); err != nil {
		return err
	}
	if err := s.loadAcked(); err != nil {
		return err
	}
	if err := s.loadSegments(); err != nil {
		return err
	}
	return s.openActive()
}

// loadName reads the spool's random name, by which numbers of one spool are told
// from those of another that took its place.
func (s *Spool) loadName() error {
	path := filepath.Join(s.dir, "name")
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		var id [12]byte
		rand.Read(id[:])
		data = []byte(hex.EncodeToString(id[:]))
		err = WriteFile(path, data, 0o600)
	}
	s.name = strings.TrimSpace(string(data))
	return err
}

func (s *Spool) loadAcked() error {
	data, err := os.ReadFile(filepath.Join(s.dir, "acked"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	s.acked, err = strconv.ParseUint(strings.TrimSpace(string(data)), 10, 64)
	s.next = s.acked + 1
	return err
}

func (s *Spool) loadSegments() error {
	paths, err := filepath.Glob(filepath.Join(s.dir, "*.seg"))
	if err != nil {
		return err
	}
	slices.Sort(paths)
	for _, path := range paths {
		first, err := strconv.ParseUint(strings.TrimSuffix(filepath.Base(path), ".seg"), 10, 64)
		if err != nil {
			return fmt.Errorf("segment with an odd name: %s", path)
		}
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		s.segments = append(s.segments, segment{first: first, path: path, size: info.Size()})
		s.bytes += info.Size()
	}
	return nil
}

// openActive finds the last whole record, cuts off what a crash left torn behind
// it, and goes on there.
func (s *Spool) openActive() error {
	if len(s.segments) == 0 {
		return s.rotate()
	}
	last := &s.segments[len(s.segments)-1]
	s.next = max(s.next, last.first)
	end, err := walk(last.path, last.first, func(e Entry) bool {
		s.next = max(s.next, e.Seq+1)
		return true
	})
	if err != nil {
		return err
	}
	if s.active, err = os.OpenFile(last.path, os.O_RDWR, 0o600); err != nil {
		return err
	}
	if end < last.size {
		if err := s.active.Truncate(end); err != nil {
			return err
		}
		if err := s.active.Sync(); err != nil {
			return err
		}
		s.bytes -= last.size - end
		last.size = end
	}
	s.size = end
	return nil
}

// rotate begins a new segment.
func (s *Spool) rotate() error {
	path := filepath.Join(s.dir, fmt.Sprintf("%020d.seg", s.next))
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := SyncDir(s.dir); err != nil {
		f.Close()
		return err
	}
	if s.active != nil {
		s.active.Close()
	}
	s.active, s.size = f, 0
	s.segments = append(s.segments, segment{first: s.next, path: path})
	return nil
}

// Name is the spool's random name, made when it was created.
func (s *Spool) Name() string { return s.name }

// Append stores payloads in order and returns the number of the first. All of
// them are durable when it returns; on an error none was stored.
func (s *Spool) Append(payloads ...[]byte) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, ErrClosed
	}
	var buf []byte
	for i, payload := range payloads {
		if len(payload) > MaxRecord {
			return 0, ErrTooLarge
		}
		buf = appendRecord(buf, s.next+uint64(i), payload)
	}
	if s.bytes+int64(len(buf)) > s.opt.MaxBytes {
		return 0, ErrFull
	}
	if s.size >= s.opt.SegmentBytes {
		if err := s.rotate(); err != nil {
			return 0, fmt.Errorf("begin spool segment: %w", err)
		}
	}
	if err := s.write(buf); err != nil {
		return 0, fmt.Errorf("append to spool: %w", err)
	}
	first := s.next
	s.next += uint64(len(payloads))
	close(s.grown)
	s.grown = make(chan struct{})
	return first, nil
}

func (s *Spool) write(buf []byte) error {
	_, err := s.active.WriteAt(buf, s.size)
	if err == nil {
		err = s.active.Sync()
	}
	if err != nil {
		// Nothing of a failed append may be read back later as if it had
		// been promised: a full disk often takes half a record.
		return errors.Join(err, s.active.Truncate(s.size))
	}
	s.size += int64(len(buf))
	s.bytes += int64(len(buf))
	s.segments[len(s.segments)-1].size = s.size
	return nil
}

// Read returns records from number from on, at least one if there is one, and
// no more than maxBytes or maxRecords. It may be called while others append.
func (s *Spool) Read(from uint64, maxRecords int, maxBytes int64) ([]Entry, error) {
	s.mu.Lock()
	segments := slices.Clone(s.segments)
	end := s.next
	s.mu.Unlock()

	var out []Entry
	var total int64
	for i, seg := range segments {
		if i+1 < len(segments) && segments[i+1].first <= from {
			continue
		}
		done := false
		_, err := walk(seg.path, seg.first, func(e Entry) bool {
			if e.Seq < from {
				return true
			}
			total += int64(len(e.Payload))
			if e.Seq >= end || len(out) > 0 && (total > maxBytes || len(out) >= maxRecords) {
				done = true
				return false
			}
			out = append(out, e)
			return true
		})
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return out, err
		}
		if done {
			break
		}
	}
	return out, nil
}

// Ack says that all records up to and including seq are done with.
func (s *Spool) Ack(seq uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if seq <= s.acked || s.closed {
		return nil
	}
	seq = min(seq, s.next-1)
	data := strconv.FormatUint(seq, 10) + "\n"
	if err := WriteFile(filepath.Join(s.dir, "acked"), []byte(data), 0o600); err != nil {
		return fmt.Errorf("acknowledge in spool: %w", err)
	}
	s.acked = seq
	// The last segment stays even when all of it is acknowledged: it holds
	// the numbers if "acked" is ever lost.
	for len(s.segments) > 1 && s.segments[1].first <= seq+1 {
		if err := os.Remove(s.segments[0].path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		s.bytes -= s.segments[0].size
		s.segments = s.segments[1:]
	}
	return nil
}

// Abandon gives up the records from number from on that are in one segment with it,
// and returns the number behind the last of them. It is for a segment that the disk
// does not give back: what follows would wait for it for ever. Acknowledging them is
// for the caller to do.
func (s *Spool) Abandon(from uint64) (next uint64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, ErrClosed
	}
	for _, seg := range s.segments[1:] {
		if seg.first > from {
			return seg.first, nil
		}
	}
	if from >= s.next {
		return from, nil
	}
	// The segment is the one that is written to: what comes goes to another.
	if err := s.rotate(); err != nil {
		return 0, fmt.Errorf("begin spool segment: %w", err)
	}
	return s.next, nil
}

// Acked is the number of the last acknowledged record, 0 for none.
func (s *Spool) Acked() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acked
}

// Pending is how many records are not acknowledged.
func (s *Spool) Pending() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next - 1 - s.acked
}

// Room is how many bytes more the spool takes, of how many in all.
func (s *Spool) Room() (free, limit int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(s.opt.MaxBytes-s.bytes, 0), s.opt.MaxBytes
}

// Grown returns a channel that is closed when a record is appended after the
// call.
func (s *Spool) Grown() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.grown
}

// Close ends the use of the spool; the records stay.
func (s *Spool) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	return errors.Join(s.active.Close(), unlock(s.lock))
}
