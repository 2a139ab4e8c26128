package baseline

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/plumbline-sec/plumbline/baseline/sign"
	"github.com/plumbline-sec/plumbline/filewatch"
)

// ErrNothingAccepted: no change was chosen.
var ErrNothingAccepted = errors.New("no change matches")

// ErrPartial: a chosen change is of an object that was not read whole.
var ErrPartial = errors.New("not read whole, so nobody can call it right")

// Decision is what someone calls right, and why.
type Decision struct {
	Time      time.Time
	Author    string
	Reason    string
	Selection string
	Tool      string
}

// Accept writes the next version of a baseline in which the chosen changes are
// right. A change that could not be measured cannot be chosen, and one of an
// object that was not read whole is ErrPartial: what was not read would be
// accepted unseen. The decision is kept in the header.
func Accept(b *Baseline, chosen []*Change, d *Decision, out io.Writer, key sign.Signer) (*Header, error) {
	if d.Author == "" || d.Reason == "" {
		return nil, errors.New("accept: a decision needs an author and a reason")
	}
	if err := Acceptable(chosen); err != nil {
		return nil, err
	}
	chosen = measured(chosen)
	header := b.Header
	header.Version++
	header.Tool, header.Created = d.Tool, d.Time.UTC()
	header.Accepted = append(slices.Clone(header.Accepted), Acceptance{Version: header.Version, Time: d.Time.UTC(),
		Author: d.Author, Reason: d.Reason, Selection: d.Selection, Changes: describe(chosen)})
	records := newSorter("")
	defer records.close()
	unread, err := amend(b, chosen, records)
	if err != nil {
		return nil, err
	}
	w, err := newWriter(out, &header)
	if err != nil {
		return nil, err
	}
	if err := records.each(limitText(w.add)); err != nil {
		return nil, err
	}
	header.Unread = unread
	return &header, w.finish(key)
}

// Acceptable says why Accept would refuse the chosen changes, nil where it would
// not.
func Acceptable(chosen []*Change) error {
	chosen = measured(chosen)
	if len(chosen) == 0 {
		return ErrNothingAccepted
	}
	for _, c := range chosen {
		if c.Partial {
			return fmt.Errorf("accept: %s: %w", filewatch.EscapePath(c.Path), ErrPartial)
		}
	}
	return nil
}

// measured are the changes that can be chosen.
func measured(chosen []*Change) []*Change {
	return slices.DeleteFunc(slices.Clone(chosen), func(c *Change) bool { return c.Kind == Unmeasured })
}

// amend puts the records of b with the chosen changes into a sorter and counts
// those that are not read whole.
func amend(b *Baseline, chosen []*Change, into *sorter) (unread uint64, err error) {
	type key struct {
		path string
		id   filewatch.ID
	}
	gone := make(map[key]bool, len(chosen))
	var encoded, scratch []byte
	add := func(r *Record) error {
		if r.Unread != "" {
			unread++
		}
		encoded = appendRecord(encoded[:0], r, &scratch)
		return into.add(encoded)
	}
	for _, c := range chosen {
		if c.Old != nil {
			gone[key{c.Old.Path(), c.Old.ID()}] = true
		}
		if c.New != nil {
			if err := add(c.New); err != nil {
				return 0, err
			}
		}
	}
	for r, err := range b.Records() {
		if err != nil {
			return 0, err
		}
		if gone[key{r.Path(), r.ID()}] {
			continue
		}
		if err := add(r); err != nil {
			return 0, err
		}
	}
	return unread, nil
}

func describe(changes []*Change) []string {
	var out []string
	for _, c := range changes {
		out = append(out, fmt.Sprintf("%s %s", c.Kind, filewatch.EscapePath(c.Path)))
	}
	return out
}
