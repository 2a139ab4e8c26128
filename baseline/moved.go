package baseline

import (
	"io"
	"slices"
	"sync"

	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// movedLogs are the growing files of a baseline by their logs: what was in one of a
// log's files may be in a rotation of it now, copied there (copytruncate) or packed.
// The log in place of it may begin with anything then, or be gone.
type movedLogs map[logPlace]*movedLog

// logPlace is what all files of one log have in common.
type logPlace struct{ volume, dir, stem string }

// movedLog has the old contents of one log's files.
type movedLog struct {
	mu     sync.Mutex // guards in of the prefixes, and room
	wanted []wantedLog
	most   int64 // bytes of the longest that may be packed now
	room   int64 // bytes that may still be unpacked
}

// wantedLog is an old content; packed, if not "", says what its file was packed with
// already, so that its bytes stay as they are.
type wantedLog struct {
	*prefix
	packed string
}

const (
	// maxUnpacked bounds what is unpacked of all rotations of a log together: so
	// often the longest that the baseline has of it.
	maxUnpacked = 64
	// maxHolders is how many files are noted that begin with one old content.
	maxHolders = 64
)

// follow adds an old content, of the file at path in the baseline.
func (m movedLogs) follow(volume, path string, p *prefix) {
	name := logNameOf(path)
	if name.stem == "" {
		return
	}
	at := logPlace{volume, name.dir, name.stem}
	log := m[at]
	if log == nil {
		log = &movedLog{}
		m[at] = log
	}
	log.wanted = append(log.wanted, wantedLog{p, name.packed})
	if name.packed == "" {
		log.most = max(log.most, p.size)
		log.room = maxUnpacked * log.most
	}
}

// of is the log that an object is a rotation of, nil for none.
func (m movedLogs) of(obj *filewatch.Object, names []string) (*movedLog, logName) {
	if len(m) == 0 || obj.Type != filewatch.TypeFile || len(names) != 1 {
		return nil, logName{}
	}
	name := logNameOf(names[0])
	if !name.rotation() {
		return nil, logName{}
	}
	return m[logPlace{obj.Volume, name.dir, name.stem}], name
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
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.most == 0 && !slices.ContainsFunc(l.wanted, func(w wantedLog) bool { return w.packed == "" }) || l.room < l.most {
		return false
	}
	l.room -= l.most
	return true
}

func (l *movedLog) giveBack(n int64) {
	l.mu.Lock()
	l.room += n
	l.mu.Unlock()
}

// begins adds to found those of the wanted whose end lies in piece, and that what sum
// has so far, read bytes, and the piece begin with.
func (l *movedLog) begins(found []*prefix, packed string, sum *blake3.Hasher, read int64, piece []byte) []*prefix {
	for _, w := range l.wanted {
		if w.packed != packed || w.size < read || w.size > read+int64(len(piece)) || slices.Contains(found, w.prefix) {
			continue
		}
		at := sum.Clone()
		at.Write(piece[:w.size-read])
		var got Digest
		at.Sum(got[:0])
		if got == w.want {
			found = append(found, w.prefix)
		}
	}
	return found
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
func (l *movedLog) unpacks(packed string) *unpacking {
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
		found, read := l.inside(packed, r)
		u.found = found
		l.giveBack(l.most - read)
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
func (l *movedLog) inside(packed string, r io.Reader) (found []*prefix, read int64) {
	z, err := unpack(packed, r, l.most)
	if err != nil {
		return nil, 0
	}
	defer z.Close()
	sum, buf := blake3.New(), make([]byte, 64<<10)
	found = l.begins(nil, "", sum, 0, nil)
	for read < l.most {
		n, err := z.Read(buf[:min(int64(len(buf)), l.most-read)])
		found = l.begins(found, "", sum, read, buf[:n])
		sum.Write(buf[:n])
		if read += int64(n); err != nil {
			break
		}
	}
	return found, read
}
