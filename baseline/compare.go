package baseline

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Report is what comparing two states came to.
type Report struct {
	Machine filewatch.Machine
	// Version and Created are the baseline's.
	Baseline Header
	// Changes are sorted by path; those of kind [Unmeasured] say what could not
	// be compared.
	Changes []*Change
	Objects uint64 // compared, in the new state
	Bytes   int64  // of content read
}

// Outcome is fail when a change counts, incomplete when something could not be
// compared, pass otherwise.
func (r *Report) Outcome() string {
	outcome := "pass"
	for _, c := range r.Changes {
		if c.Counts() {
			return "fail"
		}
		if c.Kind == Unmeasured {
			outcome = "incomplete"
		}
	}
	return outcome
}

// Mask is AIDE's exit code: 1 for added, 2 for removed, 4 for changed objects
// among the changes that count.
func (r *Report) Mask() int {
	mask := 0
	for _, c := range r.Changes {
		if c.Counts() {
			mask |= map[Kind]int{Added: 1, Removed: 2, Changed: 4}[c.Kind]
		}
	}
	return mask
}

// Count is the number of changes of a kind.
func (r *Report) Count(kind Kind) int {
	n := 0
	for _, c := range r.Changes {
		if c.Kind == kind {
			n++
		}
	}
	return n
}

// Compare sets a snapshot against a baseline. rules nil means those the
// snapshot was captured with.
func Compare(b *Baseline, s *Snapshot) (*Report, error) {
	c := newComparer(s.rules)
	c.volumes = s.Machine.Volumes
	c.places(b.Header.Machine, s.Machine)
	c.gaps(s.Gaps, "")
	c.gaps(without(b.Header.Gaps, s.Gaps), "when the baseline was made: ")
	c.know(s.growing)
	if err := c.run(b.blocks(), s.sorter.each); err != nil {
		return nil, err
	}
	return &Report{Machine: s.Machine, Baseline: b.Header, Changes: c.changes, Objects: s.Objects, Bytes: s.Bytes}, nil
}

// Diff sets two baselines against each other under the newer one's rules.
func Diff(old, new *Baseline) (*Report, error) {
	rules, err := new.Header.ParseRules()
	if err != nil {
		return nil, err
	}
	return DiffUnder(rules, old, new)
}

// DiffUnder is Diff under given rules: those of whoever judges, where the newer
// baseline comes from the machine that is judged. Growing files are followed as far as
// the newer one was asked to look for what the older one has ([Baseline.Logs]).
func DiffUnder(rules *filewatch.Rules, old, new *Baseline) (*Report, error) {
	c := newComparer(rules)
	c.volumes = new.Header.Machine.Volumes
	c.places(old.Header.Machine, new.Header.Machine)
	c.gaps(new.Header.Gaps, "in the newer baseline: ")
	c.gaps(without(old.Header.Gaps, new.Header.Gaps), "in the older baseline: ")
	c.know(prefixesOf(new.Header.Logs))
	if err := c.run(old.blocks(), new.blocks().each); err != nil {
		return nil, err
	}
	return &Report{Machine: new.Header.Machine, Baseline: old.Header, Changes: c.changes, Objects: new.Header.Objects}, nil
}

type comparer struct {
	rules    *filewatch.Rules
	changes  []*Change
	prefixes prefixes
	blind    map[string]bool // volumes with gaps
	volumes  []string        // that were read
	// left are objects without a partner of the same path and identity.
	left      struct{ old, new []*Record }
	rotations rotations
	came      []filewatch.Place // volumes that the baseline does not have
}

func newComparer(rules *filewatch.Rules) *comparer {
	return &comparer{rules: rules, blind: map[string]bool{}, rotations: newRotations()}
}

func (c *comparer) gaps(gaps []filewatch.Gap, when string) {
	for _, g := range gaps {
		c.blind[g.Volume] = true
		c.changes = append(c.changes, &Change{Path: g.What, Kind: Unmeasured, Level: filewatch.Verify, Explanation: when + g.Reason, Gap: &g})
	}
}

// without gives the gaps of a that b does not have.
func without(a, b []filewatch.Gap) []filewatch.Gap {
	return slices.DeleteFunc(slices.Clone(a), func(g filewatch.Gap) bool { return slices.Contains(b, g) })
}

// encodedReader gives encoded records without their length, nil after the last.
type encodedReader interface {
	next() ([]byte, error)
	close()
}

// run joins the two sorted streams by path and identity, then pairs what is
// left by identity, then by path. Records that are equal byte for byte, nearly
// all of them, are not decoded.
func (c *comparer) run(old encodedReader, new func(fn func(encoded []byte) error) error) error {
	defer old.close()
	plain := c.rules.Asked()
	a, err := old.next()
	if err != nil {
		return err
	}
	err = new(func(encoded []byte) error {
		b, err := body(encoded)
		if err != nil {
			return err
		}
		for a != nil {
			order, err := compareBodies(a, b)
			if err != nil {
				return err
			}
			if order > 0 {
				break
			}
			switch {
			case order < 0:
				_, err = leave(&c.left.old, a)
			case !bytes.Equal(a, b) || !wholly(a, plain):
				err = c.decodePair(a, b)
			}
			if err != nil {
				return err
			}
			if a, err = old.next(); err != nil || order == 0 {
				return err
			}
		}
		r, err := leave(&c.left.new, b)
		if err == nil {
			c.rotations.meet(r)
		}
		return err
	})
	for ; err == nil && a != nil; a, err = old.next() {
		if _, err := leave(&c.left.old, a); err != nil {
			return err
		}
	}
	if err != nil {
		return err
	}
	c.unseen()
	c.pairLeft()
	slices.SortStableFunc(c.changes, func(a, b *Change) int { return strings.Compare(a.Path, b.Path) })
	return nil
}

// leave keeps a record that the other side does not have at its place.
func leave(side *[]*Record, body []byte) (*Record, error) {
	r, err := decodeRecord(body)
	*side = append(*side, r)
	return r, err
}

func (c *comparer) decodePair(a, b []byte) error {
	old, err := decodeRecord(a)
	if err != nil {
		return err
	}
	new, err := decodeRecord(b)
	if err != nil {
		return err
	}
	if old.Generation != 0 && new.Generation != 0 && old.Generation != new.Generation {
		c.rotations.meet(new)
		c.left.old, c.left.new = append(c.left.old, old), append(c.left.new, new)
		return nil
	}
	if c.wasCut(old, new) {
		c.rotations.meet(new)
		c.rotations.cut = append(c.rotations.cut, [2]*Record{old, new})
		return nil
	}
	c.pair(old, new)
	return nil
}

// compareRecords is the order of a baseline. It leaves the generation out, which
// not every source can read.
func compareRecords(a, b *Record) int {
	return cmp.Or(strings.Compare(a.Path(), b.Path()), strings.Compare(a.Volume, b.Volume),
		cmp.Compare(a.Inode, b.Inode))
}

func (c *comparer) pair(old, new *Record) {
	prefix := c.prefix(old, new)
	change := Judge(c.rules, new.Path(), old, &Observed{Record: *new, Prefix: prefix})
	if prefix == PrefixGone && c.unsought(old) {
		change = c.maybeRotated(change)
	}
	c.add(change)
}

// prefix says whether new still begins with old, from what was seen during the
// capture or, between two baselines, from what sizes and digests can tell.
func (c *comparer) prefix(old, new *Record) PrefixState {
	p := c.prefixes.of(old)
	switch {
	case new.Unread != "" || old.Type != filewatch.TypeFile:
		return PrefixUnknown
	case p != nil && new.BLAKE3 == Digest{}: // its content was not wanted
		return PrefixUnknown
	case p != nil && p.kept && new.Size >= old.Size, old.Size == 0, old.BLAKE3 != Digest{} && old.BLAKE3 == new.BLAKE3:
		return PrefixKept
	case p != nil, new.Size < old.Size, new.Size == old.Size && contentDiffers(old, new):
		return PrefixGone
	}
	return PrefixUnknown
}

func (c *comparer) add(change *Change) {
	if change != nil {
		c.changes = append(c.changes, change)
	}
}

// pairLeft finds renamed objects by identity, logs that were rotated by content,
// replaced objects by path; the rest was added or removed.
func (c *comparer) pairLeft() {
	byID := make(map[filewatch.ID]*Record, len(c.left.old))
	byPath := make(map[string]*Record, len(c.left.old))
	for _, old := range c.left.old {
		byID[old.ID()] = old
	}
	done, taken := map[*Record]bool{}, map[*Record]bool{}
	var rest []*Record
	for _, new := range c.left.new {
		if old := byID[new.ID()]; old != nil && !done[old] && sameObject(old, new) {
			done[old], taken[new] = true, true
			c.moved(old, new)
			continue
		}
		rest = append(rest, new)
	}
	c.followContents(done, taken)
	for _, old := range c.left.old {
		if !done[old] {
			byPath[placeOf(old)] = old
		}
	}
	var come []*Record
	for _, new := range rest {
		if taken[new] {
			continue
		}
		if old := byPath[placeOf(new)]; old != nil {
			done[old] = true
			c.pair(old, new)
			continue
		}
		come = append(come, new)
	}
	for _, old := range c.left.old {
		if !done[old] && c.unsought(old) {
			c.rotations.lose(old)
		}
	}
	for _, new := range come {
		if c.succeeds(new) {
			continue
		}
		c.add(c.maySucceed(Judge(c.rules, new.Path(), nil, &Observed{Record: *new})))
	}
	for _, old := range c.left.old {
		if !done[old] {
			c.removed(old)
		}
	}
}

// placeOf tells volumes apart that are mounted on each other's paths.
func placeOf(r *Record) string { return r.Path() + "\x00" + r.Volume }

// sameObject says that two records of one identity are one object. Where the
// volume keeps no generations an inode number may have been used again, so
// something else must agree as well.
func sameObject(old, new *Record) bool {
	if old.Type != new.Type {
		return false
	}
	switch {
	case new.Generation != 0:
		return true
	case new.Type == filewatch.TypeFile && new.Size > 0:
		same, _ := old.SameContent(new.BLAKE3, new.SHA256)
		return same
	}
	return old.Link == new.Link && old.Mtime.Equal(new.Mtime)
}

func (c *comparer) moved(old, new *Record) {
	if strings.HasPrefix(new.Path(), "#") && c.blind[new.Volume] {
		c.add(&Change{Path: old.Path(), Kind: Unmeasured, Level: filewatch.Verify, Old: old, New: new,
			Explanation: "the directory that names it could not be read"})
		return
	}
	if c.rotated(old, new) {
		return
	}
	c.pair(old, new)
}

// sameProtection says that two objects have the same type, mode, owner and
// extended attributes.
func sameProtection(old, new *Record) bool {
	const check = filewatch.AttrType | filewatch.AttrMode | filewatch.AttrUID | filewatch.AttrGID | filewatch.AttrXattrs
	return len(deltas(old, new, check, check)) == 0
}

func (c *comparer) removed(old *Record) {
	change := oneSided(c.rules, Removed, old, nil)
	if change != nil && c.blind[old.Volume] {
		change.Partial = true
		change.Explanation += fmt.Sprintf(" (parts of volume %s could not be read)", old.Volume)
	}
	if change != nil && old.Volume != "" && len(c.volumes) > 0 && !slices.Contains(c.volumes, old.Volume) {
		change.Explanation += fmt.Sprintf(" (volume %s is on none of the disks that were read)", old.Volume)
	}
	if change != nil && c.unsought(old) {
		change.Kind, change.Explanation = Unmeasured, change.Explanation+"; "+notSought
	}
	c.add(change)
}
