package baseline

import (
	"slices"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// PrefixOf says whether new still begins with old as far as sizes and digests tell.
func PrefixOf(old, new *Record) PrefixState { return (&comparer{}).prefix(old, new) }

// ofRotation are the attributes in which rotation changes a growing file.
var ofRotation = []string{"path", "names", "nlink", "growing", "inode", "generation"}

// IsRotation says that a name is that of a log's rotation and a rule calls an object there
// growing. o is what was last known of the object.
func IsRotation(rules *filewatch.Rules, name string, o *filewatch.Object) bool {
	at, ok := rotationNameOf(name)
	return ok && !at.hidden() && o.Type == filewatch.TypeFile && rules.MatchNames([]string{name}, o).Check.Has(filewatch.AttrGrowing)
}

// MayBeRotation says that a change is one that rotation makes to a log, by its name and
// what changed: whether it did is in contents, of which one operation or one object
// tells nothing. It is no verdict: a scan of everything tells ([Compare], or
// [DiffUnder] with [CaptureOptions.FollowLogs]).
func MayBeRotation(rules *filewatch.Rules, c *Change) bool {
	judge := newComparer(rules)
	log := func(r *Record) bool { return r.Type == filewatch.TypeFile && judge.grows(r) }
	switch {
	case c.Old == nil && c.New == nil:
		return false
	case c.New == nil: // packed, or the oldest
		_, ok := rotationNameOf(c.Old.Path())
		return ok && log(c.Old)
	case c.Old == nil:
		at, ok := rotationNameOf(c.New.Path())
		return ok && log(c.New) && !at.hidden() && len(c.Suspicious) == 0
	}
	others := func(name string) bool { return !slices.Contains(ofRotation, name) }
	if !log(c.Old) || c.New.Type != filewatch.TypeFile || slices.ContainsFunc(c.Attributes.Names(), others) {
		return false
	}
	if c.Old.Path() == c.New.Path() {
		return true
	}
	_, leads := judge.leads(c.Old, c.New)
	return leads
}
