package baseline

import (
	"cmp"
	"slices"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// rotation is a growing file of the baseline whose content is in another place of its
// log now: moved there, copied, or packed.
type rotation struct {
	old *Record
	at  logName
}

// rotations are those that a comparison found.
type rotations struct {
	// places are those that files left; what is there now is their successor.
	places map[string]*Record
	logs   map[logPlace][]rotation
	// holders are the objects that begin with old contents; nil until their records
	// come by.
	holders map[filewatch.ID]*Record
	// cut are pairs of one object that no longer begins with what it had, while
	// others do.
	cut [][2]*Record
}

func newRotations() rotations {
	return rotations{places: map[string]*Record{}, logs: map[logPlace][]rotation{}, holders: map[filewatch.ID]*Record{}}
}

// know takes what the capture found of old contents.
func (c *comparer) know(p prefixes) {
	c.prefixes = p
	for _, p := range p {
		for ; p != nil; p = p.also {
			for _, id := range p.in {
				c.rotations.holders[id] = nil
			}
		}
	}
}

// meet notes a record of the new state that the baseline does not have.
func (r *rotations) meet(new *Record) {
	if _, ok := r.holders[new.ID()]; ok {
		r.holders[new.ID()] = new
	}
}

// note has a file of the baseline be where its log's rotation brought it.
func (r *rotations) note(old *Record, at logName) {
	r.places[placeOf(old)] = old
	log := logPlace{old.Volume, at.dir, at.stem}
	r.logs[log] = append(r.logs[log], rotation{old, at})
}

// rotated says that a growing log was moved aside with all it had:
// /var/log/syslog became /var/log/syslog.1 or /var/log/syslog-20260101, syslog.2.gz
// became syslog.3.gz. What is at the old path now is its successor. Both must be
// protected as the log was, whatever its rule compares: rotation is no way to plant a
// setuid program.
func (c *comparer) rotated(old, new *Record) bool {
	p := c.prefixes.of(old)
	if p == nil || !p.kept || !sameProtection(old, new) || len(new.Names) != 1 {
		return false
	}
	was, now := logNameOf(old.Path()), logNameOf(new.Path())
	if !now.rotation() || !now.of(was) || now.packed != was.packed {
		return false
	}
	c.rotations.note(old, now)
	if new.Unread != "" { // what it had was there before reading failed
		c.add(&Change{Path: new.Path(), Kind: Unmeasured, Level: filewatch.Verify, Old: old, New: new,
			Explanation: "was moved aside by rotation, and could not be read: " + new.Unread})
	}
	return true
}

// wasCut says that an object no longer begins with what the baseline has of it, and
// that something else does.
func (c *comparer) wasCut(old, new *Record) bool {
	p := c.prefixes.of(old)
	return p != nil && len(p.in) > 0 && c.prefix(old, new) == PrefixGone
}

// followContents finds files of the baseline whose content was copied or packed by
// rotation, and whose object is gone or begins with something else: /var/log/syslog was
// copied to syslog.1 and truncated, syslog.1 became syslog.2.gz. All that the baseline
// has of it must be at the beginning of a file that is as protected, and each file
// accounts for one, those that the baseline has for themselves. It marks as done those
// that are gone, and as taken the new files that they are in.
func (c *comparer) followContents(done, taken map[*Record]bool) {
	now := map[*Record]*Record{} // the cut ones
	var lost []*Record
	for _, pair := range c.rotations.cut {
		lost = append(lost, pair[0])
		now[pair[0]] = pair[1]
	}
	for _, old := range c.left.old {
		if p := c.prefixes.of(old); !done[old] && p != nil && len(p.in) > 0 {
			lost = append(lost, old)
		}
	}
	// Long ones first: they begin with what short ones are.
	slices.SortStableFunc(lost, func(a, b *Record) int { return cmp.Compare(b.Size, a.Size) })
	for _, old := range lost {
		in := c.holderOf(old, taken)
		new := now[old]
		switch {
		case in == nil && new != nil:
			c.pair(old, new)
			continue
		case in == nil:
			continue
		}
		taken[in], done[old] = true, true
		c.rotations.note(old, logNameOf(in.Path()))
		if new != nil { // all else about it is compared
			c.add(Judge(c.rules, new.Path(), old, &Observed{Record: *new, Prefix: PrefixKept}))
		}
	}
}

// holderOf is a rotation of a file's log that begins with what the file had, nil for
// none.
func (c *comparer) holderOf(old *Record, taken map[*Record]bool) *Record {
	was := logNameOf(old.Path())
	for _, id := range c.prefixes.of(old).in {
		new := c.rotations.holders[id]
		if new == nil || taken[new] || new.Unread != "" || len(new.Names) != 1 || !sameProtection(old, new) {
			continue
		}
		if now := logNameOf(new.Path()); now.rotation() && now.of(was) && (was.packed == "" || now.packed == was.packed) {
			return new
		}
	}
	return nil
}

// succeeds says that a new file came by rotation: it is where one of the baseline was
// that was moved on; or one more that begins with what was moved, as while it is being
// packed; or between a log and where rotation brought what the baseline has of the log,
// so that all in it was written since. It must be protected as the log was.
func (c *comparer) succeeds(new *Record) bool {
	if new.Unread != "" || len(new.Names) != 1 {
		return false
	}
	if old := c.rotations.places[placeOf(new)]; old != nil {
		return sameProtection(old, new)
	}
	at := logNameOf(new.Path())
	if !at.rotation() {
		return false
	}
	return slices.ContainsFunc(c.rotations.logs[logPlace{new.Volume, at.dir, at.stem}], func(r rotation) bool {
		was, p := logNameOf(r.old.Path()), c.prefixes.of(r.old)
		between := was.suffix == "" && was.packed == "" && at.newer(r.at)
		again := p != nil && slices.Contains(p.in, new.ID()) && (was.packed == "" || was.packed == at.packed)
		return (between || again) && sameProtection(r.old, new)
	})
}
