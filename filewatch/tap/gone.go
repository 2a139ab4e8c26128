package tap

import (
	"fmt"
	"slices"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// What is kept of volumes that cannot be seen any more, so that what became of their
// files is told if they come back, is bounded in number and in bytes: a guest may make
// one volume after another. Those that were there at the first look are not counted: they
// cannot become more.
const (
	maxGone      = 16
	maxGoneBytes = 1 << 30
)

// volumes are those of which states are kept.
type volumes struct {
	first []string // at the first look
	later []string // that came since, in this order
	size  map[string]int64
	room  int64 // for bytes; 0 means maxGoneBytes
}

// see notes what a look found.
func (v *volumes) see(l *look, first bool) {
	for _, id := range l.come {
		if first && !slices.Contains(v.first, id) {
			v.first = append(v.first, id)
		}
		if !first && !slices.Contains(v.first, id) && !slices.Contains(v.later, id) {
			v.later = append(v.later, id)
		}
	}
}

// excess gives those that are gone and of which there is no room to keep anything: of
// those that came later the last ones.
func (v *volumes) excess(l *look) (drop []string, err error) {
	room := v.room
	if room == 0 {
		room = maxGoneBytes
	}
	kept, size := 0, map[string]int64{}
	for _, id := range v.later {
		if !slices.Contains(l.gone, id) {
			continue
		}
		n, known := v.size[id]
		if !known {
			if n, err = l.kept.size(appendVolume(nil, id)); err != nil {
				return nil, err
			}
		}
		if kept == maxGone || n > room {
			drop = append(drop, id)
			continue
		}
		kept, room, size[id] = kept+1, room-n, n
	}
	v.size = size
	v.later = slices.DeleteFunc(v.later, func(id string) bool { return slices.Contains(drop, id) })
	return drop, nil
}

// bound drops what there is no room for of volumes that are gone, and tells of it.
func (s *Source) bound(l *look, first bool) error {
	s.volumes.see(l, first)
	drop, err := s.volumes.excess(l)
	for _, id := range drop {
		l.drop = append(l.drop, void{prefix: appendVolume(nil, id), whole: true})
		s.lose(filewatch.AlertGap, fmt.Sprintf("what is kept of volume %s, which is gone, is dropped: of so many that come and go not all can be kept; if it comes back, what is on it is taken as it is", id))
	}
	return err
}

// size is how many bytes the states have whose keys begin so.
func (k *kept) size(prefix []byte) (n int64, err error) {
	for e, err := range k.beginning(prefix) {
		if err != nil {
			return 0, err
		}
		n += int64(len(e))
	}
	return n, nil
}
