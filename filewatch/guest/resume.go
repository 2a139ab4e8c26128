package guest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume"
)

// Moment is what a scan that may be interrupted keeps of the moment that it sees:
// of each volume where it lies and what decides how its blocks read.
type Moment []VolumeMoment

// VolumeMoment is one volume of a [Moment].
type VolumeMoment struct {
	ID     string `json:"id"` // UUID
	Type   string `json:"type"`
	Layout string `json:"layout"` // see volume.Volume.Layout
	Size   int64  `json:"size"`
	// Head is a digest of its first bytes, where superblocks with their write times
	// are.
	Head []byte `json:"head"`
	// Marks are those of volume.Follower, Refused says why there are none.
	Marks   []byte `json:"marks,omitempty"`
	Refused string `json:"refused,omitempty"`
}

// headSize is enough for the superblocks of all file systems that are read.
const headSize = 8 << 10

func headOf(v *volume.Volume) ([]byte, error) {
	head := make([]byte, min(headSize, v.Size))
	if err := v.ReadDevice(head, 0); err != nil {
		return nil, fmt.Errorf("%s: %w", describe(v), err)
	}
	sum := blake3.Sum256(head)
	return sum[:], nil
}

// Moment is the present one.
func (g *Guest) Moment() (Moment, error) {
	out := Moment{}
	for _, m := range g.Mounts {
		v := m.Volume
		now := VolumeMoment{ID: v.UUID, Type: v.Type, Layout: v.Layout(), Size: v.Size}
		var err error
		if now.Head, err = headOf(v); err != nil {
			return nil, err
		}
		if now.Marks, err = v.Follower().Marks(); err != nil {
			now.Marks, now.Refused = nil, err.Error()
		}
		out = append(out, now)
	}
	return out, nil
}

// ErrUnseenWrite: a volume's first bytes differ although nothing is said to have
// been written.
var ErrUnseenWrite = errors.New("it was written to, which nothing else tells")

func (m *VolumeMoment) at(v *volume.Volume) bool {
	return m.Type == v.Type && m.Layout == v.Layout() && m.Size == v.Size
}

// GoOn has [Guest.ScanPlaced] tell which contents certainly are what they were at
// all the moments, when on each disk at most the bytes in changed differ from the
// first of them on; a disk without an entry is not known. Volumes of which nothing
// can be told are returned with their reasons. An error means that what is in
// changed cannot be believed.
func (g *Guest) GoOn(moments []Moment, changed map[int][]filewatch.Extent) ([]filewatch.Gap, error) {
	g.untouched = map[string]*untouched{}
	var refused []filewatch.Gap
	seen := map[string]bool{}
	for _, m := range g.Mounts {
		id := m.Volume.UUID
		u, err := goOn(m.Volume, moments, changed)
		if errors.Is(err, ErrUnseenWrite) {
			return nil, fmt.Errorf("%s: %w", describe(m.Volume), err)
		}
		if seen[id] || id == "" {
			u, err = nil, fmt.Errorf("volumes cannot be told apart: two have the identity %q, or none", id)
		}
		seen[id] = true
		if err == nil {
			g.untouched[id] = u
		} else {
			delete(g.untouched, id)
			refused = append(refused, filewatch.Gap{Volume: id, What: describe(m.Volume), Reason: err.Error()})
		}
	}
	return refused, nil
}

// untouched is what of a volume may read differently; nil for all of it.
type untouched struct{ blocks []filewatch.Extent }

// holds says that content at these places reads as it did.
func (u *untouched) holds(c *filewatch.Content) bool {
	if u == nil {
		return false
	}
	for _, e := range c.Extents {
		if e.Physical >= 0 && volume.Overlaps(u.blocks, e.Physical, e.Length) {
			return false
		}
	}
	return true
}

func goOn(v *volume.Volume, moments []Moment, changed map[int][]filewatch.Extent) (*untouched, error) {
	var then []*VolumeMoment
	for _, m := range moments {
		for i := range m {
			if m[i].ID != v.UUID {
				continue
			}
			if !m[i].at(v) {
				return nil, fmt.Errorf("it was in another place")
			}
			then = append(then, &m[i])
		}
	}
	dirty, err := v.Dirty(changed)
	if err != nil {
		return nil, err
	}
	u := &untouched{}
	if len(dirty) == 0 {
		return u, sameHeads(v, then) // whatever it is: no byte of it changed
	}
	for _, m := range then {
		if m.Refused != "" {
			return nil, fmt.Errorf("it was written to: %s", m.Refused)
		}
		blocks, _, _, err := v.Follower().Changed(m.Marks, dirty)
		if err != nil {
			return nil, err
		}
		u.blocks = append(u.blocks, blocks...)
	}
	u.blocks = volume.Merge(u.blocks)
	return u, nil
}

// sameHeads is the test of a claim that nothing was written.
func sameHeads(v *volume.Volume, then []*VolumeMoment) error {
	head, err := headOf(v)
	if err != nil {
		return err
	}
	for _, m := range then {
		if !bytes.Equal(m.Head, head) {
			return ErrUnseenWrite
		}
	}
	return nil
}

// where implements filewatch.Where.
type where struct {
	object  *filewatch.Object
	content filewatch.Content
	of      *untouched
}

func (w *where) Untouched() bool { return w.of.holds(&w.content) }

func (w *where) Place() [32]byte {
	written := make([]filewatch.Extent, 0, len(w.content.Extents))
	for _, e := range w.content.Extents {
		if e.Physical >= 0 {
			written = append(written, e)
		}
	}
	return blake3.Sum256(describeObject(nil, w.object, &w.content, written))
}

// ScanPlaced is [Guest.Scan] that tells where contents are; see
// baseline.PlacedSource.
func (g *Guest) ScanPlaced(ctx context.Context, want func(*filewatch.Object, []string, filewatch.Where) bool, visit placedVisit) ([]filewatch.Gap, error) {
	return g.each(ctx, func(s *scan) { s.placed(g.untouched, want, visit) })
}

// placedVisit is told where the content is; nil for no content.
type placedVisit = func(o *filewatch.Object, names []string, at filewatch.Where, content io.Reader, damage error) error

// placed has the scan tell want and visit where contents are.
func (s *scan) placed(all map[string]*untouched, want func(*filewatch.Object, []string, filewatch.Where) bool, visit placedVisit) {
	of := all[s.mount.Volume.UUID]
	var here where
	s.look = func(o *filewatch.Object, content *filewatch.Content) { here = where{o, *content, of} }
	s.want = func(o *filewatch.Object, names []string) bool { return want(o, names, &here) }
	s.visit = func(o *filewatch.Object, names []string, content io.Reader, damage error) error {
		if c, ok := content.(*volume.Content); ok {
			return visit(o, names, &where{o, c.Where(), of}, content, damage)
		}
		return visit(o, names, nil, content, damage)
	}
}
