package baseline

import (
	"errors"
	"iter"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// State is all that a scan found, however it came to know it.
type State struct {
	// Records are in order.
	Records iter.Seq2[*Record, error]
	// Rules are those the objects were chosen with, nil for everything.
	Rules *filewatch.Rules

	growing prefixes
}

// Kept says that new, a file of the state, still begins with the content that old,
// its record in the baseline that the scan followed, had.
func (s *State) Kept(old, new *Record) bool {
	p := s.growing.of(old)
	return p != nil && p.kept || old.Size == 0 || old.BLAKE3 != Digest{} && old.BLAKE3 == new.BLAKE3
}

// State is what the capture found.
func (s *Snapshot) State() *State {
	return &State{recordsOf(s.sorter.each), s.rules, s.growing}
}

// State is the whole state, of the rules that it was made with.
func (l *Last) State(rules *filewatch.Rules) *State {
	return &State{recordsOf(l.eachRecord), rules, l.prefixes()}
}

// State is the whole state that the update makes of the last one.
func (u *Update) State() (*State, error) {
	l := &Last{}
	if _, err := u.settle(l, func([]byte) error { return nil }); err != nil {
		return nil, err
	}
	return &State{recordsOf(u.each), u.snap.rules, l.prefixes()}, nil
}

// recordsOf decodes what each gives.
func recordsOf(each func(func(encoded []byte) error) error) iter.Seq2[*Record, error] {
	return func(yield func(*Record, error) bool) {
		errStop := errors.New("stop")
		err := each(func(encoded []byte) error {
			r, err := decodeEncoded(encoded)
			if err != nil {
				return err
			}
			if !yield(r, nil) {
				return errStop
			}
			return nil
		})
		if err != nil && err != errStop {
			yield(nil, err)
		}
	}
}
