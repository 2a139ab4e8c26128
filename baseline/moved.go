package baseline

import (
	"cmp"
	"context"
	"errors"
	"io"
	"iter"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// movedLogs are the growing files of a baseline by their logs: what was in one of a
// log's files may be in a rotation of it now, copied there (copytruncate) or packed.
// The log in place of it may begin with anything then, or be gone.
type movedLogs struct {
	logs map[logPlace]*movedLog
	// elsewhere are the logs themselves, which "olddir" brings into any directory:
	// by places without one.
	elsewhere map[logPlace]*movedLog
	// judgedElsewhere says that the rules that judge are not those of the capture.
	judgedElsewhere bool
	*searches
}

// searches is what those of one capture share.
type searches struct {
	room unpackRoom
	mu   sync.Mutex // guards in and unsought of the prefixes, and cut
	// sums are digests that were made to look for old contents.
	sums atomic.Int64
}

// maxSums bounds sums, and of the old contents that one of them finds all but the first.
// As many files as a guest likes, under the names of as many logs, would make them its
// square: some seconds.
const maxSums = 10 << 20

func newMovedLogs() movedLogs {
	return movedLogs{logs: map[logPlace]*movedLog{}, elsewhere: map[logPlace]*movedLog{}, searches: &searches{}}
}

// logPlace is what all files of one log have in common, but for those in another
// directory.
type logPlace struct{ volume, dir, log string }

func (l logName) place(volume string) logPlace { return logPlace{volume, l.dir, l.log()} }

// movedLog has the old contents of one log's files.
type movedLog struct {
	*searches
	wanted    []wantedLog
	elsewhere *movedLog // nil for none, and in one of those
	most      int64     // bytes of the longest that may be packed now
	crowded   bool      // there are more than maxElsewhere, of which none is in wanted
	order     sync.Once
	ours      map[*prefix]bool
	bySize    map[string][]sized         // wanted by what they are packed with, the shortest first
	had       map[filewatch.ID][]*prefix // wanted by what held them when it was last read
	cut       map[string]int64           // by the same the least size that some content was not searched for
}

// maxElsewhere is how many logs of one name are looked for in other directories than
// their own. Every file with that name's rotations is searched for all of them: of as many
// as a guest makes, or as there are containers, that would be the square.
const maxElsewhere = 64

// wantedLog is an old content; packed, if not "", says what its file was packed with
// already, so that its bytes stay as they are.
type wantedLog struct {
	*prefix
	packed string
}

// maxHolders is how many files in the log's own directory are noted that begin with one
// old content, maxHoldersElsewhere how many in all others: those push none of the first
// out.
const (
	maxHolders          = 1024
	maxHoldersElsewhere = 64
)

// follow adds an old content, of the file at path in the baseline, before any is
// looked for.
func (m movedLogs) follow(volume, path string, p *prefix) {
	for _, name := range logNamesOf(path) {
		if name.stem == "" {
			continue
		}
		at := name.place(volume)
		anywhere := m.elsewhere[logPlace{volume, "", at.log}]
		if anywhere == nil {
			anywhere = &movedLog{searches: m.searches}
			m.elsewhere[logPlace{volume, "", at.log}] = anywhere
		}
		log := m.logs[at]
		if log == nil {
			log = &movedLog{searches: m.searches, elsewhere: anywhere}
			m.logs[at] = log
		}
		w := wantedLog{p, name.packed}
		log.wanted = append(log.wanted, w)
		if name.packed == "" && p.size > log.most {
			m.room.grow(p.size - log.most)
			log.most = p.size
		}
		if name.suffix == "" && name.packed == "" {
			anywhere.add(w)
		}
	}
}

// add adds to the logs of one name.
func (l *movedLog) add(w wantedLog) {
	if l.crowded || len(l.wanted) == maxElsewhere {
		l.crowded, l.wanted, l.most = true, nil, 0
		return
	}
	l.wanted, l.most = append(l.wanted, w), max(l.most, w.size)
}

// logOf is the log that an object is a rotation of, nil for none.
func (o *CaptureOptions) logOf(obj *filewatch.Object, names []string) (*movedLog, logName) {
	if len(o.moved.logs) == 0 || obj.Type != filewatch.TypeFile || len(names) != 1 {
		return nil, logName{}
	}
	name, ok := rotationNameOf(names[0])
	if !ok {
		return nil, name
	}
	if log := o.moved.logs[name.place(obj.Volume)]; log != nil {
		return log, name
	}
	log := o.moved.elsewhere[logPlace{obj.Volume, "", name.log()}]
	if log == nil || log.crowded || !o.moved.judgedElsewhere && !o.Rules.MatchNames(names, obj).Check.Has(filewatch.AttrGrowing) {
		return nil, name
	}
	return log, name
}

// each gives every log.
func (m movedLogs) each() iter.Seq[*movedLog] {
	return func(yield func(*movedLog) bool) {
		for _, logs := range []map[logPlace]*movedLog{m.logs, m.elsewhere} {
			for _, log := range logs {
				if !yield(log) {
					return
				}
			}
		}
	}
}

// prepare is for once none is added any more.
func (l *movedLog) prepare() {
	l.order.Do(func() {
		l.ours, l.bySize, l.had = make(map[*prefix]bool, len(l.wanted)), map[string][]sized{}, map[filewatch.ID][]*prefix{}
		ordered := slices.Clone(l.wanted)
		slices.SortStableFunc(ordered, func(a, b wantedLog) int { return cmp.Compare(a.size, b.size) })
		for _, w := range ordered {
			l.ours[w.prefix] = true
			for _, id := range w.wasIn {
				l.had[id] = append(l.had[id], w.prefix)
			}
			list := l.bySize[w.packed]
			if n := len(list); n == 0 || list[n-1].size != w.size {
				list = append(list, sized{w.size, map[Digest][]*prefix{}})
				l.bySize[w.packed] = list
			}
			last := list[len(list)-1].of
			last[w.want] = append(last[w.want], w.prefix)
		}
	})
}

// both are the log and those of its name elsewhere.
func (l *movedLog) both() []*movedLog {
	if l.elsewhere == nil {
		return []*movedLog{l}
	}
	return []*movedLog{l, l.elsewhere}
}

// notSearched notes that a content was not searched for old ones of a size or more, which
// are packed so.
func (l *movedLog) notSearched(packed string, size int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if least, ok := l.cut[packed]; !ok || size < least {
		if l.cut == nil {
			l.cut = map[string]int64{}
		}
		l.cut[packed] = size
	}
}

// notUnpacked notes that a packed content was not looked into.
func (l *movedLog) notUnpacked() {
	for _, from := range l.both() {
		from.notSearched("", 0)
	}
}

// settle marks the old contents that were not looked for everywhere. It is for once the
// last content has been read.
func (m movedLogs) settle() {
	for log := range m.each() {
		for _, w := range log.wanted {
			if least, ok := log.cut[w.packed]; ok && w.size >= least {
				w.unsought = true
			}
		}
	}
}

// any says whether fn holds for one of the old contents that may be in a rotation of the
// log.
func (l *movedLog) any(fn func(wantedLog) bool) bool {
	return slices.ContainsFunc(l.wanted, fn) || l.elsewhere != nil && slices.ContainsFunc(l.elsewhere.wanted, fn)
}

// longest is how many bytes of a packed rotation are of interest.
func (l *movedLog) longest() int64 {
	if l.elsewhere == nil {
		return l.most
	}
	return max(l.most, l.elsewhere.most)
}

// holds notes that an object, a rotation of the log, begins with old contents.
func (l *movedLog) holds(id filewatch.ID, found []*prefix) {
	if len(found) == 0 {
		return
	}
	l.prepare()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range found {
		ours := l.elsewhere != nil && l.ours[p]
		switch {
		case p.notes(id):
		case !ours && p.elsewhere < maxHoldersElsewhere && len(p.in) < maxHolders+maxHoldersElsewhere:
			p.elsewhere++
			p.in = append(p.in, id)
		case ours && len(p.in)-p.elsewhere < maxHolders:
			p.in = append(p.in, id)
		default: // and whoever follows the log will not look at this one
			p.unsought = true
		}
	}
}

// notes says that an object is noted. A capture reads each once, and notes it for each old
// content once or, as it is and unpacked, twice in a row: those that it noted are not all
// looked through, of which a guest may make many for each of many.
func (p *prefix) notes(id filewatch.ID) bool {
	n := len(p.in)
	return n > 0 && p.in[n-1] == id || slices.Contains(p.in[:min(p.before, n)], id)
}

// held says whether the object held one of the old contents when it was last read,
// and notes that it does again.
func (l *movedLog) held(id filewatch.ID) bool {
	var found []*prefix
	for _, from := range l.both() {
		from.prepare()
		found = append(found, from.had[id]...)
	}
	l.holds(id, found)
	return len(found) > 0
}

// reserve takes the room that one more file needs.
func (l *movedLog) reserve() bool {
	if !l.any(func(w wantedLog) bool { return w.packed == "" }) {
		return false
	}
	if !l.room.take(l.longest()) {
		l.notUnpacked()
		return false
	}
	return true
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
		defer func() {
			if recover() != nil {
				l.notUnpacked()
			}
		}()
		found, read := l.inside(ctx, packed, r)
		u.found = found
		l.room.giveBack(l.longest() - read)
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
// was unpacked. That it cannot be is no error: nothing is found in it then. Where it would
// take more memory than is given to it that is noted.
func (l *movedLog) inside(ctx context.Context, packed string, r io.Reader) (found []*prefix, read int64) {
	most := l.longest()
	z, err := unpack(packed, r, most)
	if err != nil {
		l.unpackFailed(err)
		return nil, 0
	}
	defer z.Close()
	sum, buf, look := blake3.New(), make([]byte, 64<<10), l.search("")
	look.goesOn(sum, 0, nil)
	// A little that is packed may be much: whoever ends the scan does not wait for it.
	for read < most && ctx.Err() == nil {
		n, err := z.Read(buf[:min(int64(len(buf)), most-read)])
		look.goesOn(sum, read, buf[:n])
		sum.Write(buf[:n])
		if read += int64(n); err != nil {
			l.unpackFailed(err)
			break
		}
	}
	return look.found, read
}

func (l *movedLog) unpackFailed(err error) {
	if errors.Is(err, errWindow) || errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		l.notUnpacked()
	}
}
