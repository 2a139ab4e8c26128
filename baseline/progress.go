package baseline

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/internal/durable"
)

// ErrProgress is wrapped by whatever keeps the progress of an interrupted scan from
// being used. Nothing of it is taken over then.
var ErrProgress = errors.New("the progress of the interrupted scan cannot be used")

// Progress is what a scan that may be interrupted has read, in a file: which
// contents, where they were, and their digests. A later scan of the same kind goes
// on from it: it looks at everything but contents anew, and takes over the digests
// of those that its source knows to be the same.
//
// Each record has a MAC under a key that only the operator has: someone who may
// write the file, but not read the key, can make it useless and nothing else. The
// file need not be durable, and a torn end is dropped. It is used by one process
// at a time.
type Progress struct {
	// Lost says why what an earlier scan left was dropped, "" when there was
	// nothing or it is in use.
	Lost string

	path  string
	key   ProgressKey
	bind  [32]byte
	parts []ProgressPart
	// index is sorted by volume, inode and place in the file; later ones count.
	index   []progressEntry
	volumes map[string]uint32

	mu      sync.Mutex   // guards what is below
	file    progressFile // nil after Close
	mac     *progressMAC
	end     int64 // of what is in the file and in out
	out     []byte
	flushed time.Time
	waiting map[progressID]waitingContent
	err     error // the first of writing: nothing is added after it
}

// ProgressPart is one start of the scan.
type ProgressPart struct {
	// Taken is when the part's source was opened.
	Taken time.Time `json:"taken"`
	// Source and Moment are the source's own.
	Source json.RawMessage `json:"source"`
	Moment json.RawMessage `json:"moment"`
}

// progressID is a content's object.
type progressID struct {
	volume string
	inode  uint64
}

// progressEntry is where a content's record is in the file.
type progressEntry struct {
	volume uint32
	inode  uint64
	at     int64
}

// waitingContent is a content that is being read.
type waitingContent struct {
	place [32]byte
	kept  *prefix
}

// ProgressKey is the secret of [Progress] files.
type ProgressKey [32]byte

// LoadOrCreateProgressKey reads the key at path, or makes one there (mode 0600, its
// directory 0700). One that others may read or write is refused.
func LoadOrCreateProgressKey(path string) (key ProgressKey, err error) {
	fail := func(err error) (ProgressKey, error) {
		return ProgressKey{}, fmt.Errorf("key of progress files: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fail(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	if err := durable.Lock(f); err != nil {
		return fail(err)
	}
	info, err := f.Stat()
	if err != nil {
		return fail(err)
	}
	if !private(info) {
		return fail(fmt.Errorf("%s: others may use it (mode %s)", path, info.Mode()))
	}
	n, err := io.ReadFull(f, key[:])
	switch {
	case err == nil:
		return key, nil
	case n > 0 && !errors.Is(err, io.ErrUnexpectedEOF), n == 0 && !errors.Is(err, io.EOF):
		return fail(err)
	}
	// New, or a making of it was cut short.
	rand.Read(key[:])
	if _, err := f.WriteAt(key[:], 0); err != nil {
		return fail(err)
	}
	return key, f.Sync()
}

// OpenProgress reads the progress at path, which bind says what it is of: nothing
// of another kind of scan is taken over. What is there and cannot be used is
// dropped, and Lost says why. The caller closes it.
func OpenProgress(path string, key ProgressKey, bind ...string) (*Progress, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("keep progress: %w", err)
	}
	f, err := openPrivate(path)
	if err != nil {
		return nil, fmt.Errorf("keep progress: %w", err)
	}
	info, err := f.Stat()
	if err == nil {
		err = durable.Lock(f)
	}
	if err != nil {
		f.Close()
		if errors.Is(err, durable.ErrLocked) {
			err = fmt.Errorf("another scan of the same is running: %w", err)
		}
		return nil, fmt.Errorf("keep progress: %w", err)
	}
	p := newProgress(f, info.Size(), key, bind...)
	p.path = path
	return p, nil
}

// progressFile is what is done with an open file.
type progressFile interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Truncate(size int64) error
}

// newProgress reads what is in the file.
func newProgress(file progressFile, size int64, key ProgressKey, bind ...string) *Progress {
	p := &Progress{file: file, key: key, bind: bindingOf(bind), volumes: map[string]uint32{}, waiting: map[progressID]waitingContent{}}
	if err := p.load(size); err != nil {
		p.Drop(fmt.Errorf("%w: %w", ErrProgress, err).Error())
	}
	return p
}

// Parts are the starts of the scan so far, the first one first.
func (p *Progress) Parts() []ProgressPart { return p.parts }

// Contents is how many contents were read.
func (p *Progress) Contents() int { return len(p.index) }

// Drop forgets what an earlier scan left, for the given reason.
func (p *Progress) Drop(reason string) {
	p.Lost, p.parts, p.index, p.mac, p.end = reason, nil, nil, nil, 0
}

// Begin starts the next part of the scan.
func (p *Progress) Begin(part *ProgressPart) error {
	text, err := json.Marshal(part)
	if err != nil {
		return fmt.Errorf("keep progress: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mac == nil {
		p.start()
	}
	// What was torn off, or dropped, goes.
	if p.err = p.file.Truncate(p.end); p.err == nil {
		p.append(partRecord, text)
		p.flush()
	}
	if p.err != nil {
		return fmt.Errorf("keep progress: %w", p.err)
	}
	p.parts = append(p.parts, *part)
	return nil
}

// Flush writes what is held back. That it cannot be written is no error of the
// scan: Close says so.
func (p *Progress) Flush() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flush()
}

// Close leaves the file for a later scan.
func (p *Progress) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.file == nil {
		return nil
	}
	p.flush()
	err := errors.Join(p.err, p.file.Close())
	p.file = nil
	return err
}

// Remove ends the scan: nothing of it is needed any more.
func (p *Progress) Remove() error {
	p.mu.Lock()
	p.out, p.err = nil, nil
	p.mu.Unlock()
	err := os.Remove(p.path)
	return errors.Join(err, p.Close())
}

// known gives the record of a content that was read before and is the same now,
// with digests and text alone, or nil.
func (p *Progress) known(o *filewatch.Object, at filewatch.Where) *progressContent {
	volume, ok := p.volumes[o.Volume]
	if !ok || !at.Untouched() {
		return nil
	}
	i, _ := slices.BinarySearchFunc(p.index, progressEntry{volume, o.Inode, 1 << 62}, compareProgress)
	if i == 0 || p.index[i-1].volume != volume || p.index[i-1].inode != o.Inode {
		return nil
	}
	body, err := p.readAt(p.index[i-1].at)
	if err != nil {
		return nil
	}
	c, err := decodeContent(body)
	if err != nil || c.record.ID() != o.ID() || c.place != at.Place() {
		return nil
	}
	return c
}

// expect says that a content is going to be read.
func (p *Progress) expect(o *filewatch.Object, place [32]byte, kept *prefix) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting[progressID{o.Volume, o.Inode}] = waitingContent{place, kept}
}

// keep takes a finished record; those of contents that were not read are of no
// interest.
func (p *Progress) keep(encoded []byte) error {
	volume, inode, err := encodedID(encoded)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	id := progressID{string(volume), inode}
	w, ok := p.waiting[id]
	if !ok {
		return nil
	}
	delete(p.waiting, id)
	r, err := decodeEncoded(encoded)
	if err != nil {
		return err
	}
	if r.Unread != "" {
		return nil
	}
	c := progressContent{record: *r, place: w.place, kept: w.kept != nil && w.kept.allKept()}
	p.append(contentRecord, c.append(nil))
	return nil
}
