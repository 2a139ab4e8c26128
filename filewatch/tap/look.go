package tap

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/disk"
	"github.com/plumbline-sec/plumbline/filewatch/guest"
	"github.com/plumbline-sec/plumbline/internal/sorted"
)

// look is one look at the disks: what no longer holds, and what there is in its
// place.
type look struct {
	rules *filewatch.Rules
	names func(filewatch.ID) []string // of record; nil for none
	kept  *kept
	// since and at are the window: what is found was done between them.
	since, at time.Time
	// most is how many bytes of contents are read, left how many still may be.
	most, left int64

	memory *guest.Memory
	voids  []void // sorted
	// everything says that all was looked at.
	everything bool
	gaps       []filewatch.Gap
	// come and gone are volumes that the last look did not have, or that this one
	// does not: what is on them is not compared.
	come, gone []string
	// drop are volumes that are gone and of which nothing is kept any more.
	drop []void
	// later are objects whose content is left to the next look, waiting how many are
	// left by earlier ones.
	later   []filewatch.ID
	waiting int

	reused sync.Map // of digests by filewatch.ID; unread ones have the reason

	mu    sync.Mutex // guards found
	found *sorted.Sorter
}

// digests are those of a content that was not read, or why there are none.
type digests struct {
	blake3, sha256 Digest
	size           int64
	unsettled      bool
	unread         string
	left           bool
}

// maxLater bounds the contents that are left to later looks, maxAgain how many of them
// one look is at: a look at more objects than are held at once is at a whole volume.
const (
	maxLater = 1 << 18
	maxAgain = 1 << 14
)

// errTwins: two volumes have one identity, so that nobody can tell their objects apart.
var errTwins = errors.New("volumes cannot be told apart")

// whole looks at everything.
func (l *look) whole(ctx context.Context, set *disk.Set) error {
	g, err := guest.OnDisks(set)
	if err == nil {
		err = distinct(g)
	}
	if err != nil {
		return err
	}
	l.begin()
	l.left, l.everything = 1<<62, true
	g.Remember = l.kept.dir
	l.gaps, err = g.Scan(ctx, func(o *filewatch.Object, names []string) bool { return l.want(o, names, false) }, l.visit)
	if err != nil {
		return err
	}
	l.memory = g.Memory()
	var here []string
	for _, m := range g.Mounts {
		here = append(here, m.Volume.UUID)
	}
	return l.settle(here, here, nil)
}

// changed looks at what may differ from what the memory is of. again are objects to
// look at in any case.
func (l *look) changed(ctx context.Context, set *disk.Set, memory *guest.Memory, again []filewatch.ID) error {
	g, err := guest.OnDisks(set)
	if err == nil {
		err = distinct(g)
	}
	if err != nil {
		return err
	}
	l.begin()
	g.Remember = l.kept.dir
	f, err := g.Follow(ctx, memory, set.Changed, again)
	if err != nil {
		return err
	}
	l.gaps, err = f.ScanTouched(ctx, func(o *filewatch.Object, names []string, same bool, _ filewatch.Where) bool {
		return l.want(o, names, same)
	},
		func(o *filewatch.Object, names []string, _ filewatch.Where, content io.Reader, damage error) error {
			return l.visit(o, names, content, damage)
		})
	if err != nil {
		return err
	}
	l.memory = g.Memory()
	var here, whole []string
	for _, m := range g.Mounts {
		here = append(here, m.Volume.UUID)
	}
	for _, w := range f.Touched().Whole {
		if slices.Contains(here, w.Volume) {
			whole = append(whole, w.Volume)
		}
	}
	return l.settle(here, whole, f.Touched().Inodes)
}

func distinct(g *guest.Guest) error {
	seen := map[string]bool{}
	for _, m := range g.Mounts {
		id := m.Volume.UUID
		if id == "" || seen[id] {
			return fmt.Errorf("%w: two have the identity %q, or none", errTwins, id)
		}
		seen[id] = true
	}
	return nil
}

func (l *look) begin() {
	if l.found != nil {
		l.found.Close()
	}
	l.found, l.later = sorted.NewSorter(string(l.kept.dir)), nil
	l.reused.Clear()
}

// settle notes which states do not hold any more: those of whole volumes, and of
// single objects of others. Those of volumes that are not here are kept: they were
// not looked at.
func (l *look) settle(here, whole []string, inodes map[string][]uint64) error {
	had, err := l.kept.volumes()
	if err != nil {
		return err
	}
	l.voids, l.come, l.gone = nil, nil, nil
	for _, id := range here {
		v := void{prefix: appendVolume(nil, id), whole: slices.Contains(whole, id), inodes: inodes[id]}
		if had[string(v.prefix)] == "" {
			l.come = append(l.come, id)
		}
		if v.whole || len(v.inodes) > 0 {
			l.voids = append(l.voids, v)
		}
	}
	for _, id := range had {
		if !slices.Contains(here, id) {
			l.gone = append(l.gone, id)
		}
	}
	slices.SortFunc(l.voids, func(a, b void) int { return bytes.Compare(a.prefix, b.prefix) })
	return nil
}

// contentAttributes are those that need the content read.
const contentAttributes = filewatch.AttrContent | filewatch.AttrSHA256 | filewatch.AttrGrowing

// want says whether the content of a file is read. It is called from one goroutine.
func (l *look) want(o *filewatch.Object, names []string, same bool) bool {
	rule := l.rule(o, names)
	var d digests
	if same {
		d = l.before(o)
	}
	needed := rule.Level != filewatch.Ignore && rule.Check&contentAttributes != 0 &&
		(d.unread != "" || d.blake3 == Digest{} || rule.Check.Has(filewatch.AttrSHA256) && d.sha256 == Digest{})
	if needed {
		if o.Size <= l.left {
			l.left -= o.Size
			return true
		}
		// What it was is kept, so that what is read later is compared with that.
		was := l.kept.digests(o)
		d = was
		d.left = false
		d.unread = fmt.Sprintf("content of %d bytes that may have changed by %s not read: one look reads at most %d bytes of what changed", o.Size, l.at.Format(time.RFC3339Nano), l.most)
		if same && was.unread != "" && !was.left {
			d.unread = was.unread
		}
		if o.Size <= l.most {
			d.unread = "content not read yet: this look had read enough"
			if len(l.later)+l.waiting < maxLater {
				d.left = true
				l.later = append(l.later, o.ID())
			} else {
				d.unread = fmt.Sprintf("content not read: there are %d others to read later", maxLater)
			}
		}
	}
	l.reused.Store(o.ID(), d)
	return false
}

// rule is what is asked for an object. One that was taken to where it is ignored is
// what it is on record.
func (l *look) rule(o *filewatch.Object, names []string) filewatch.Rule {
	rule := l.rules.MatchNames(names, o)
	if rule.Level > filewatch.Ignore || l.names == nil {
		return rule
	}
	if record := l.names(o.ID()); len(record) > 0 {
		return l.rules.MatchNames(record, o)
	}
	return rule
}

// before gives the digests of the last look, of a content that is what it was.
func (l *look) before(o *filewatch.Object) digests {
	d := l.kept.digests(o)
	if d.unread != "" || d.size != o.Size {
		return digests{}
	}
	return d
}

// digests gives those that are kept of an object.
func (k *kept) digests(o *filewatch.Object) digests {
	key := appendKey(nil, o.Volume, o.Inode)
	body, err := k.state(key)
	if err != nil || body == nil {
		return digests{}
	}
	s, err := parseState(key, body)
	if err != nil || s.Generation != o.Generation {
		return digests{}
	}
	return digests{s.BLAKE3, s.SHA256, s.Size, s.Unsettled, s.Unread, s.Left}
}

// visit takes one object, from any goroutine.
func (l *look) visit(o *filewatch.Object, names []string, content io.Reader, damage error) error {
	s := &State{Object: *o, Names: names, Unsettled: o.Type == filewatch.TypeFile && o.Size == 0}
	switch {
	case damage != nil:
		s.Unread = damage.Error()
	case content != nil:
		if err := s.read(content, l.rule(o, names).Check.Has(filewatch.AttrSHA256)); err != nil {
			s.Unread = err.Error()
		}
		if at, ok := content.(interface{ Where() filewatch.Content }); ok && s.Size > 0 {
			where := at.Where()
			s.Unsettled = where.Reserved(s.Size)
		}
	default:
		if kept, ok := l.reused.LoadAndDelete(o.ID()); ok {
			d := kept.(digests)
			s.BLAKE3, s.SHA256, s.Unread, s.Left = d.blake3, d.sha256, d.unread, d.left
			s.Unsettled = s.Unsettled || d.unsettled
		}
	}
	s.cut(func(name string) filewatch.Level { return l.rules.MatchNames([]string{name}, o).Level })
	entry := appendState(nil, s)
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.found.Add(entry)
}

// read digests a content.
func (s *State) read(content io.Reader, withSHA256 bool) error {
	fast, slow := blake3.New(), sha256.New()
	to := io.Writer(fast)
	if withSHA256 {
		to = io.MultiWriter(fast, slow)
	}
	n, err := io.Copy(to, content)
	switch {
	case err != nil:
		return fmt.Errorf("read content after %d bytes: %w", n, err)
	case n != s.Size:
		return fmt.Errorf("content ends after %d of %d bytes: %w", n, s.Size, io.ErrUnexpectedEOF)
	}
	fast.Sum(s.BLAKE3[:0])
	if withSHA256 {
		slow.Sum(s.SHA256[:0])
	}
	return nil
}

// pairs calls fn for each object that differs, and for those that due says. Either
// state is nil where there is none.
func (l *look) pairs(due func(key []byte) bool, fn func(old, new *State) error) error {
	return merge(l.kept.of(l.voids), l.found.Each, func(key, was, is []byte) error {
		if bytes.Equal(was, is) && !due(key) {
			return nil
		}
		old, err := parseEntry(was)
		if err != nil {
			return err
		}
		new, err := parseEntry(is)
		if err != nil {
			return err
		}
		return fn(old, new)
	})
}

// parseEntry is nil for nil.
func parseEntry(entry []byte) (*State, error) {
	if entry == nil {
		return nil, nil
	}
	key, body := split(entry)
	if key == nil {
		return nil, errKept
	}
	return parseState(key, body)
}

// keep makes the look the last one.
func (l *look) keep() error {
	if err := l.kept.update(slices.Concat(l.voids, l.drop), l.found.Each); err != nil {
		return err
	}
	needed, err := l.memory.Fold()
	if err != nil {
		return err
	}
	return l.kept.tidy(needed)
}

func (l *look) close() {
	if l.found != nil {
		l.found.Close()
	}
}
