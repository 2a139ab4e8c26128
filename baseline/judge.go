package baseline

import (
	"fmt"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Observed is what has been seen of an object now.
type Observed struct {
	Record
	// Known are the attributes that Record really has; 0 means all. A trap knows
	// the inode and not yet the content.
	Known filewatch.Attributes
	// Prefix says whether the content still begins with what the baseline has;
	// only asked for growing files.
	Prefix PrefixState
}

// PrefixState is what is known about the old content of a growing file.
type PrefixState uint8

// The states.
const (
	PrefixUnknown PrefixState = iota
	PrefixKept
	PrefixGone
)

// Judge compares one object with its record in a baseline. path is the object's
// path now. want is nil when the baseline has no such object, got nil when
// there is none now. The result is nil when nothing that the rules ask for
// differs and everything could be compared; a [Change] of kind [Unmeasured]
// says what could not be. Pure: the verifier and the one-shot commands use it.
func Judge(rules *filewatch.Rules, path string, want *Record, got *Observed) *Change {
	if got != nil && len(got.Names) == 0 {
		named := *got
		named.Names = []string{path}
		got = &named
	}
	switch {
	case want == nil && got == nil:
		return nil
	case got == nil:
		return oneSided(rules, Removed, want, nil)
	case want == nil:
		return oneSided(rules, Added, nil, &got.Record)
	}
	rule := stricter(rules, want, &got.Record)
	if rule.Level == filewatch.Ignore {
		return nil
	}
	known := got.Known
	if known == 0 {
		known = ^filewatch.Attributes(0)
	}
	c := &Change{Path: path, Kind: Changed, Level: rule.Level, Rule: rule.Name, Old: want, New: &got.Record}
	if want.Path() != path && len(want.Names) == 1 {
		// A rename is reported whatever the rule compares.
		rule.Check |= filewatch.AttrNames
	}
	reason := notComparable(want, got, rule.Check, known)
	if got.Unread != "" {
		known &^= contentAttributes
	}
	c.Attributes = deltas(want, &got.Record, rule.Check, known)
	if rule.Check.Has(filewatch.AttrGrowing) && got.Prefix == PrefixGone {
		c.Attributes = append(c.Attributes, Delta{"growing", fmt.Sprintf("first %d bytes", want.Size), nil})
	}
	if len(c.Attributes) == 0 {
		if reason == "" {
			return nil
		}
		c.Kind, c.Explanation = Unmeasured, reason
		return c
	}
	c.Partial = reason != ""
	c.Suspicious = suspicious(want, &got.Record)
	c.Explanation = explain(c)
	textDiff(c, rule.Sealed)
	return c
}

func oneSided(rules *filewatch.Rules, kind Kind, old, new *Record) *Change {
	r := new
	if r == nil {
		r = old
	}
	rule := rules.MatchNames(r.Names, &r.Object)
	if rule.Level == filewatch.Ignore {
		return nil
	}
	c := &Change{Path: r.Path(), Kind: kind, Level: rule.Level, Rule: rule.Name, Old: old, New: new}
	c.Partial = new != nil && new.Unread != ""
	c.Suspicious = suspicious(old, new)
	c.Explanation = explain(c)
	textDiff(c, rule.Sealed)
	return c
}

// stricter joins the rules for both states: an object that changed so that a
// laxer rule matches it is still held to what it was.
func stricter(rules *filewatch.Rules, old, new *Record) filewatch.Rule {
	now := rules.MatchNames(new.Names, &new.Object)
	before := rules.MatchNames(old.Names, &old.Object)
	if before.Level > now.Level {
		now.Level, now.Name = before.Level, before.Name
	}
	both := now.Check | before.Check
	if !(now.Check & before.Check).Has(filewatch.AttrGrowing) {
		both &^= filewatch.AttrGrowing
	}
	now.Check, now.Sealed = both, now.Sealed || before.Sealed
	return now
}

// notComparable says why some attribute that the rule asks for cannot be
// compared, "" when all can.
func notComparable(old *Record, new *Observed, check, known filewatch.Attributes) string {
	if new.Unread != "" {
		return "could not be read: " + new.Unread
	}
	asked := check & contentAttributes
	if old.Type != filewatch.TypeFile || new.Type != filewatch.TypeFile || asked == 0 {
		return ""
	}
	switch {
	case asked.Has(filewatch.AttrGrowing) && new.Prefix == PrefixUnknown && old.Size > 0:
		return "whether its old content is still there has not been looked at"
	case asked&^known != 0:
		return "its content has not been read yet"
	case old.Unread != "":
		return "could not be read when the baseline was made: " + old.Unread
	case asked.Has(filewatch.AttrContent) && old.BLAKE3 == Digest{}:
		return "the baseline has no digest of its content; it was made with other rules"
	case asked.Has(filewatch.AttrSHA256) && old.SHA256 == Digest{}:
		return "the baseline has no SHA-256 of its content; it was made with other rules"
	case asked.Has(filewatch.AttrContent) && new.BLAKE3 == Digest{}, asked.Has(filewatch.AttrSHA256) && new.SHA256 == Digest{}:
		return "its content was captured without the digest that the rules ask for"
	}
	return ""
}

// VerdictOf turns the result of [Judge] into an event's verdict.
func VerdictOf(c *Change) filewatch.Verdict {
	switch {
	case c == nil:
		return filewatch.Verdict{Outcome: filewatch.Pass, Reason: "as in the baseline"}
	case c.Kind == Unmeasured:
		return filewatch.Verdict{Outcome: filewatch.NotMeasured, Reason: c.Explanation}
	case !c.Counts():
		return filewatch.Verdict{Outcome: filewatch.Pass, Reason: fmt.Sprintf("%s (level %s)", c.Explanation, c.Level), Attributes: c.Attributes.Names()}
	}
	return filewatch.Verdict{Outcome: filewatch.Fail, Reason: c.Explanation, Attributes: c.Attributes.Names()}
}
