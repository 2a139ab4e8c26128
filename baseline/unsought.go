package baseline

import (
	"fmt"
	"slices"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// notSought is why nobody can tell what became of a log.
const notSought = "what the baseline has of it may be in a file that rotation made: the search of these ended at its bound"

// unsought says that what the baseline has of a log, which is no longer in its place, was
// not looked for everywhere.
func (c *comparer) unsought(old *Record) bool {
	p := c.prefixes.of(old)
	return p != nil && p.unsought
}

// maybeRotated makes what rotation does to a log, whose content was not looked for
// everywhere, one that is not measured. What rotation does not do stays a finding.
func (c *comparer) maybeRotated(change *Change) *Change {
	if change == nil || change.Kind != Changed {
		return change
	}
	c.rotations.lose(change.Old)
	change.Partial = true
	if !c.byRotation(change) {
		return change
	}
	return &Change{Path: change.Path, Kind: Unmeasured, Level: change.Level, Rule: change.Rule, Old: change.Old, New: change.New, Explanation: notSought}
}

// byRotation says that nothing differs in a log but what differs once it was rotated.
func (c *comparer) byRotation(change *Change) bool {
	another := change.Attributes.Has("names") && len(change.New.Names) > 1
	if another || slices.ContainsFunc(change.Attributes.Names(), func(name string) bool { return !slices.Contains(ofRotation, name) }) {
		return false
	}
	if change.Old.Path() == change.New.Path() {
		return true
	}
	_, leads := c.leads(change.Old, change.New)
	return leads
}

// maySucceed makes a file that is new one that is not measured, where rotation brings
// there what was not looked for everywhere.
func (c *comparer) maySucceed(change *Change) *Change {
	if change == nil || len(c.rotations.lost) == 0 || len(change.New.Names) != 1 {
		return change
	}
	new := change.New
	at, ok := rotationNameOf(new.Path())
	if !ok {
		return change
	}
	for _, key := range lostKeysFor(new, at) {
		if old := c.rotations.lost[key]; old != nil && sameProtection(old, new) {
			if _, ok := c.leads(old, new); ok {
				change.Kind, change.Explanation = Unmeasured, "may have, or follow, what the baseline has of "+filewatch.EscapePath(old.Path())+", which was not looked for everywhere: the search of what rotation made ended at its bound"
				return change
			}
		}
	}
	return change
}

// lostKey is what tells whether rotation brings one file to another's name: only one of
// those that are alike in it is kept, since a log may have thousands of rotations.
type lostKey struct {
	volume, dir, log, ext, packed string
	first                         bool // the log itself
	protection                    string
}

// lose notes a file that was not looked for everywhere and not found.
func (r *rotations) lose(old *Record) {
	for _, was := range logNamesOf(old.Path()) {
		if was.stem == "" {
			continue
		}
		key := lostKey{old.Volume, was.dir, was.log(), was.ext, was.packed, was.suffix == "", protectionOf(old)}
		if key.first {
			key.ext = "" // its rotations may keep it at their end or not
			if anywhere := key; anywhere.packed == "" {
				anywhere.dir = ""
				r.lost[anywhere] = old
			}
		}
		r.lost[key] = old
	}
}

// lostKeysFor are those whose files rotation may bring to a name.
func lostKeysFor(new *Record, at logName) []lostKey {
	key := lostKey{new.Volume, at.dir, at.log(), at.ext, "", false, protectionOf(new)}
	plain := key
	first := key
	first.first, first.ext = true, ""
	anywhere := first
	anywhere.dir = ""
	packed := key
	packed.packed = at.packed
	firstPacked := first
	firstPacked.packed = at.packed
	return []lostKey{first, anywhere, plain, packed, firstPacked}
}

// protectionOf is the same for what has the same protection.
func protectionOf(r *Record) string {
	return fmt.Sprint(r.Type, r.Mode, r.UID, r.GID, r.Xattrs)
}
