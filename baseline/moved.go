package baseline

import (
	"context"
	"io"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// movedLogs are the growing files of a baseline by their logs: what was in one of a
// log's files may be in a rotation of it now, copied there (copytruncate) or packed.
// The log in place of it may begin with anything then, or be gone.
type movedLogs struct {
	logs map[logPlace]*movedLog
	room *unpackRoom
}

func newMovedLogs() movedLogs {
	return movedLogs{map[logPlace]*movedLog{}, &unpackRoom{}}
}

// logPlace is what all files of one log have in common.
type logPlace struct{ volume, dir, stem string }

// movedLog has the old contents of one log's files.
type movedLog struct {
	room   *unpackRoom
	mu     sync.Mutex // guards in of the prefixes
	wanted []wantedLog
	most   int64 // bytes of the longest that may be packed now
	order  sync.Once
	bySize map[string][]wantedLog // by what they are packed with
	sums   atomic.Int64           // digests that were made to look for them
}

// wantedLog is an old content; packed, if not "", says what its file was packed with
// already, so that its bytes stay as they are.
type wantedLog struct {
	*prefix
	packed string
}

// maxHolders is how many files are noted that begin with one old content.
const maxHolders = 64

// follow adds an old content, of the file at path in the baseline, before any is
// looked for.
func (m movedLogs) follow(volume, path string, p *prefix) {
	name := logNameOf(path)
	if name.stem == "" {
		return
	}
	at := logPlace{volume, name.dir, name.stem}
	log := m.logs[at]
	if log == nil {
		log = &movedLog{room: m.room}
		m.logs[at] = log
	}
	log.wanted = append(log.wanted, wantedLog{p, name.packed})
	if name.packed == "" && p.size > log.most {
		m.room.grow(p.size - log.most)
		log.most = p.size
	}
}

// of is the log that an object is a rotation of, nil for none.
func (m movedLogs) of(obj *filewatch.Object, names []string) (*movedLog, logName) {
	if len(m.logs) == 0 || obj.Type != filewatch.TypeFile || len(names) != 1 {
		return nil, logName{}
	}
	name := logNameOf(names[0])
	if !name.rotation() {
		return nil, logName{}
	}
	return m.logs[logPlace{obj.Volume, name.dir, name.stem}], name
}

// holds notes that an object begins with old contents.
func (l *movedLog) holds(id filewatch.ID, found []*prefix) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range found {
		if len(p.in) < maxHolders && !slices.Contains(p.in, id) {
			p.in = append(p.in, id)
		}
	}
}

// held says whether the object held one of the old contents when it was last read,
// and notes that it does again.
func (l *movedLog) held(id filewatch.ID) bool {
	var found []*prefix
	for _, w := range l.wanted {
		if slices.Contains(w.wasIn, id) {
			found = append(found, w.prefix)
		}
	}
	l.holds(id, found)
	return len(found) > 0
}

// reserve takes the room that one more file needs.
func (l *movedLog) reserve() bool {
	return slices.ContainsFunc(l.wanted, func(w wantedLog) bool { return w.packed == "" }) && l.room.take(l.most)
}

// unpacking looks for old contents in a file that is being read, unpacked: it gets
// the file as a writer.
type unpacking struct {
	*io.PipeWriter
	log   *movedLog
	done  chan struct{}
	found []*prefix // once done
}

// unpacks begins to look into a packed file, nil where it is not worth it. The caller
// ends it.
func (l *movedLog) unpacks(ctx context.Context, packed string) *unpacking {
	if packed == "" || !l.reserve() {
		return nil
	}
	r, w := io.Pipe()
	u := &unpacking{PipeWriter: w, log: l, done: make(chan struct{})}
	go func() {
		defer close(u.done)
		defer r.CloseWithError(errPacked) // nothing more is wanted
		// A fault of a decompressor must not end the scan of everything else.
		defer func() { recover() }()
		found, read := l.inside(ctx, packed, r)
		u.found = found
		l.room.giveBack(l.most - read)
	}()
	return u
}

// end gives what was found.
func (u *unpacking) end() []*prefix {
	if u == nil {
		return nil
	}
	u.Close()
	<-u.done
	return u.found
}

// inside unpacks what r has and gives the old contents it begins with, and how much
// was unpacked. That it cannot be is no error: nothing is found in it then.
func (l *movedLog) inside(ctx context.Context, packed string, r io.Reader) (found []*prefix, read int64) {
	z, err := unpack(packed, r, l.most)
	if err != nil {
		return nil, 0
	}
	defer z.Close()
	sum, buf, look := blake3.New(), make([]byte, 64<<10), l.search("")
	look.goesOn(sum, 0, nil)
	// A little that is packed may be much: whoever ends the scan does not wait for it.
	for read < l.most && ctx.Err() == nil {
		n, err := z.Read(buf[:min(int64(len(buf)), l.most-read)])
		look.goesOn(sum, read, buf[:n])
		sum.Write(buf[:n])
		if read += int64(n); err != nil {
			break
		}
	}
	return look.found, read
}
