package filewatch

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
)

// Rule is what is asked for one object.
type Rule struct {
	// Name is the rule's "name", or "rule N" counted from 1, or "default".
	Name  string
	Level Level
	Check Attributes
	// Sealed says "nodiff": the content may be a secret and is never kept or
	// shown, only its digest.
	Sealed bool
	// Diff says "diff": small text files are kept, so that a change can be shown.
	Diff bool
}

// Rules say for each object which attributes are compared and how much a
// difference matters. The first rule that matches wins. The zero value, like a
// nil *Rules, takes every object with every attribute at level verify.
type Rules struct {
	rules []matcher
	text  []byte // as parsed; nil for the zero value
}

// defaultRule is what holds without a rules file.
var defaultRule = Rule{Name: "default", Level: Verify, Check: AllAttributes}

// unmatched is what holds for an object that no rule of a file matches.
var unmatched = Rule{Name: "none", Level: Ignore}

// matcher is one rule with what selects for it. Empty selectors select all.
type matcher struct {
	rule    Rule
	globs   []glob
	regex   *regexp.Regexp
	prefix  string // that every match of regex begins with
	types   []Type
	volumes []string
	owners  []owner
	sizes   []sizeLimit
}

// Match returns the rule for an object under one of its paths. A nil object
// means that only the path is known: then conditions on the object hold for
// every level but ignore, so that doubt leads to looking.
func (r *Rules) Match(path string, o *Object) Rule {
	if r == nil || r.text == nil {
		return defaultRule
	}
	for i := range r.rules {
		if m := &r.rules[i]; m.matchPath(path) && m.matchObject(o) {
			return m.rule
		}
	}
	return unmatched
}

// MatchNames returns the strictest of the rules for an object's paths: a name
// in a place that is ignored does not hide an object from the place where it
// is protected.
func (r *Rules) MatchNames(names []string, o *Object) Rule {
	if len(names) == 0 {
		return r.Match("", o)
	}
	best := r.Match(names[0], o)
	sealed := best.Sealed
	for _, name := range names[1:] {
		rule := r.Match(name, o)
		sealed = sealed || rule.Sealed // a secret has no name under which it is none
		if rule.Level > best.Level {
			best = rule
		}
	}
	best.Sealed = sealed
	return best
}

// KeepsText says that some rule asks for "diff".
func (r *Rules) KeepsText() bool {
	return r != nil && slices.ContainsFunc(r.rules, func(m matcher) bool { return m.rule.Diff })
}

// Asked is every attribute that some rule compares.
func (r *Rules) Asked() Attributes {
	if r == nil || r.text == nil {
		return defaultRule.Check
	}
	var asked Attributes
	for i := range r.rules {
		asked |= r.rules[i].rule.Check
	}
	return asked
}

// Text is the TOML the rules were parsed from, nil for the default.
func (r *Rules) Text() []byte {
	if r == nil {
		return nil
	}
	return r.text
}

func (m *matcher) matchPath(path string) bool {
	if m.regex != nil {
		return strings.HasPrefix(path, m.prefix) && m.regex.MatchString(path)
	}
	if m.globs == nil {
		return true
	}
	for i := range m.globs {
		if m.globs[i].match(path) {
			return true
		}
	}
	return false
}

func (m *matcher) matchObject(o *Object) bool {
	narrowed := m.types != nil || m.volumes != nil || m.owners != nil || m.sizes != nil
	if !narrowed {
		return true
	}
	if o == nil {
		return m.rule.Level != Ignore
	}
	if m.types != nil && !slices.Contains(m.types, o.Type) {
		return false
	}
	if m.volumes != nil && !slices.Contains(m.volumes, o.Volume) {
		return false
	}
	if m.owners != nil && !slices.ContainsFunc(m.owners, func(w owner) bool { return w.is(o) }) {
		return false
	}
	for _, limit := range m.sizes {
		if !limit.holds(o.Size) {
			return false
		}
	}
	return true
}

// anchoredPrefix is the text that every match of an expression begins with at
// the beginning of the path: hundreds of rules are then told apart by comparing
// bytes. It is "" when the expression is not anchored.
func anchoredPrefix(expr string) string {
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return ""
	}
	re = re.Simplify()
	if re.Op != syntax.OpConcat || re.Sub[0].Op != syntax.OpBeginText {
		return ""
	}
	var prefix strings.Builder
	for _, sub := range re.Sub[1:] {
		if sub.Op != syntax.OpLiteral || sub.Flags&syntax.FoldCase != 0 {
			break
		}
		prefix.WriteString(string(sub.Rune))
	}
	return prefix.String()
}

// owner is a user, a group or both, by number: names are the guest's to change.
type owner struct{ uid, gid int64 } // -1 for any

func (w owner) is(o *Object) bool {
	return (w.uid < 0 || w.uid == int64(o.UID)) && (w.gid < 0 || w.gid == int64(o.GID))
}

// sizeLimit is one comparison with a number of bytes.
type sizeLimit struct {
	op    string
	bytes int64
}

func (l sizeLimit) holds(size int64) bool {
	switch l.op {
	case "<":
		return size < l.bytes
	case "<=":
		return size <= l.bytes
	case ">":
		return size > l.bytes
	case ">=":
		return size >= l.bytes
	}
	return size == l.bytes
}

func (l sizeLimit) String() string { return fmt.Sprintf("%s%d", l.op, l.bytes) }
