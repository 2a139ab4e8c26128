package baseline

import (
	"cmp"
	"slices"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// rotation is a growing file of the baseline whose content is in another place of its
// log now: moved there, copied, or packed.
type rotation struct {
	old     *Record
	was, at logName
}

// rotations are those that a comparison found.
type rotations struct {
	// places are those that files left; what is there now is their successor.
	places map[string]*Record
	// logs are those of logs themselves, by the place that they are at now; again all, by
	// the objects that begin with what they had.
	logs  map[logPlace][]rotation
	again map[filewatch.ID][]*rotation
	// holders are the objects that begin with old contents; nil until their records
	// come by.
	holders map[filewatch.ID]*Record
	// cut are pairs of one object that no longer begins with what it had, while
	// others do.
	cut [][2]*Record
	// lost are files that were not looked for everywhere and not found, by what the names
	// and protection of their rotations depend on.
	lost map[lostKey]*Record
}

func newRotations() rotations {
	return rotations{places: map[string]*Record{}, logs: map[logPlace][]rotation{}, again: map[filewatch.ID][]*rotation{}, holders: map[filewatch.ID]*Record{}, lost: map[lostKey]*Record{}}
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
func (c *comparer) note(found rotation) {
	r := &c.rotations
	r.places[placeOf(found.old)] = found.old
	if found.was.suffix == "" && found.was.packed == "" {
		log := found.at.place(found.old.Volume)
		r.logs[log] = append(r.logs[log], found)
	}
	if p := c.prefixes.of(found.old); p != nil {
		for _, id := range p.in {
			r.again[id] = append(r.again[id], &found)
		}
	}
}

// leads says that rotation brings a file with old's name to new's: in the directory
// of its log, or, a log itself, into another one ("olddir"), whose files the rules call
// growing as well and which is not hidden.
func (c *comparer) leads(old, new *Record) (r rotation, ok bool) {
	at, ok := rotationNameOf(new.Path())
	if !ok || old.Volume != new.Volume {
		return r, false
	}
	for _, was := range logNamesOf(old.Path()) {
		if was.stem == "" || !at.follows(was) {
			continue
		}
		elsewhere := was.suffix == "" && was.packed == "" && c.grows(new) && !at.hidden()
		if at.dir == was.dir || elsewhere {
			return rotation{old, was, at}, true
		}
	}
	return r, false
}

// grows says that a rule calls the object a log.
func (c *comparer) grows(r *Record) bool {
	return c.rules.MatchNames(r.Names, &r.Object).Check.Has(filewatch.AttrGrowing)
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
	found, ok := c.leads(old, new)
	if !ok || found.at.packed != found.was.packed {
		return false
	}
	c.note(found)
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
		in, found := c.holderOf(old, taken)
		new := now[old]
		switch {
		case in == nil && new != nil:
			c.pair(old, new)
			continue
		case in == nil:
			continue
		}
		taken[in], done[old] = true, true
		c.note(found)
		if new != nil { // all else about it is compared
			c.add(Judge(c.rules, new.Path(), old, &Observed{Record: *new, Prefix: PrefixKept}))
		}
	}
}

// holderOf is a rotation of a file's log that begins with what the file had, nil for
// none.
func (c *comparer) holderOf(old *Record, taken map[*Record]bool) (*Record, rotation) {
	for _, id := range c.prefixes.of(old).in {
		new := c.rotations.holders[id]
		if new == nil || taken[new] || new.Unread != "" || len(new.Names) != 1 || !sameProtection(old, new) {
			continue
		}
		if found, ok := c.leads(old, new); ok {
			return new, found
		}
	}
	return nil, rotation{}
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
	at, ok := rotationNameOf(new.Path())
	if !ok {
		return false
	}
	like := func(r rotation) bool {
		return (at.dir == r.was.dir || c.grows(new)) && sameProtection(r.old, new)
	}
	between := func(r rotation) bool { return at.ext == r.at.ext && at.newer(r.at) && like(r) }
	again := func(r *rotation) bool {
		return at.place(new.Volume) == r.at.place(r.old.Volume) && at.follows(r.was) && like(*r)
	}
	return slices.ContainsFunc(c.rotations.logs[at.place(new.Volume)], between) || slices.ContainsFunc(c.rotations.again[new.ID()], again)
}
