package guest

import (
	"context"
	"fmt"
	"maps"
	"sync"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume"
)

// maxTouched bounds what is held of the touched objects of one volume. With more
// of them a whole scan costs little more.
const maxTouched = 1 << 17

// looked is what a look at some of the candidates found. It is filled by one
// goroutine; what is shared with others is only read.
type looked struct {
	of         *followed
	candidates []uint64 // sorted
	forced     map[uint64]bool
	old        *places
	placer     *placer

	located []volume.Located
	places  map[uint64]placeBody
	gone    map[uint64]bool
	same    map[uint64]bool
	reason  string
	err     error

	next int    // of the candidates
	seen uint64 // the last inode that is there
}

// inHalves is from how many candidates on they are looked at in two halves at once.
const inHalves = 256

// look reads the candidates and keeps those that are forced or not as they were.
func (f *followed) look(ctx context.Context, candidates []uint64, forced map[uint64]bool) (reason string, err error) {
	half := len(candidates) / 2
	if len(candidates) < inHalves {
		half = 0
	}
	parts := []*looked{f.looked(candidates[half:], forced, f.was.places())}
	var first sync.WaitGroup
	if half > 0 {
		parts = append(parts, f.looked(candidates[:half], forced, f.was.again().places()))
		first.Go(func() { parts[1].look(ctx) })
	}
	parts[0].look(ctx)
	first.Wait()
	f.places, f.gone, f.same = map[uint64]placeBody{}, map[uint64]bool{}, map[uint64]bool{}
	for _, l := range parts {
		if l.err != nil || l.reason != "" {
			return l.reason, l.err
		}
		f.located = append(f.located, l.located...)
		maps.Copy(f.places, l.places)
		maps.Copy(f.gone, l.gone)
		maps.Copy(f.same, l.same)
	}
	if len(f.located) > maxTouched {
		return tooMany, nil
	}
	return "", nil
}

var tooMany = fmt.Sprintf("more than %d objects are touched", maxTouched)

func (f *followed) looked(candidates []uint64, forced map[uint64]bool, old *places) *looked {
	return &looked{of: f, candidates: candidates, forced: forced, old: old,
		places: map[uint64]placeBody{}, gone: map[uint64]bool{}, same: map[uint64]bool{}}
}

// look sets reason where everything must be looked at, or err.
func (l *looked) look(ctx context.Context) {
	placer, err := l.of.now.placer()
	if err == nil {
		l.placer = placer
		err = l.of.reader.Some(ctx, l.candidates, l.skip, l.visitor())
	}
	if err == nil {
		err = l.behind(1 << 63)
	}
	if err == nil {
		err = l.err
	}
	if l.err = err; err == errWhole {
		l.err = nil
	}
}

// behind takes the candidates before an inode: those that were there and were
// not seen are gone.
func (l *looked) behind(inode uint64) error {
	for ; l.err == nil && l.next < len(l.candidates) && l.candidates[l.next] < inode; l.next++ {
		if l.candidates[l.next] == l.seen {
			continue
		}
		var body placeBody
		if body, l.err = l.old.find(l.candidates[l.next]); body != nil {
			l.gone[l.candidates[l.next]] = true
		}
	}
	return l.err
}

// skip says that an inode is as it was, by its bytes.
func (l *looked) skip(inode uint64, raw []byte) bool {
	if l.behind(inode) != nil || l.forced[inode] {
		return false
	}
	var body placeBody
	body, l.err = l.old.find(inode)
	if body == nil || body.raw() != l.placer.raw(raw) {
		return false
	}
	l.seen = inode
	return true
}

// visitor takes the objects that are there.
func (l *looked) visitor() volume.ObjectFunc {
	var was place
	return func(o *filewatch.Object, content filewatch.Content, damage error) error {
		if damage != nil && (o.Inode == 0 || o.Type == filewatch.TypeDir || o.Type == filewatch.TypeUnknown) {
			l.reason = damage.Error()
			return errWhole
		}
		if err := l.behind(o.Inode); err != nil {
			return err
		}
		l.seen = o.Inode
		p := l.placer.place(o, &content)
		body, err := l.old.find(o.Inode)
		if err != nil {
			return err
		}
		if body != nil {
			if !l.forced[o.Inode] && damage == nil && body.digest() == p.digest {
				return nil
			}
			if err := body.decode(o.Inode, &was); err != nil {
				return err
			}
			l.same[o.Inode] = damage == nil && was.sameContent(&p) && !p.on(l.of.blocks)
		}
		l.located = append(l.located, volume.Located{Object: o, Content: content, Damage: damage})
		l.places[o.Inode] = p.append(nil)
		if len(l.located) > maxTouched {
			l.reason = tooMany
			return errWhole
		}
		return nil
	}
}

// errWhole ends a look at a volume that must be scanned whole.
var errWhole = fmt.Errorf("scan the whole volume")
