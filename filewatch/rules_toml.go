package filewatch

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"
)

// ErrRules marks rules that cannot be used.
var ErrRules = errors.New("rules")

// Bounds on a rules file: it travels in the header of every baseline.
const (
	maxRulesText = 1 << 20
	maxRules     = 4096
)

type tomlRules struct {
	Rule []tomlRule `toml:"rule"`
}

type tomlRule struct {
	Name   string `toml:"name"`
	Path   words  `toml:"path"`
	Regex  string `toml:"regex"`
	Type   words  `toml:"type"`
	Owner  words  `toml:"owner"`
	Size   words  `toml:"size"`
	Volume words  `toml:"volume"`
	Level  string `toml:"level"`
	Check  words  `toml:"check"`
	NoDiff bool   `toml:"nodiff"`
	Diff   bool   `toml:"diff"`
}

// words is a string, an integer, or an array of them.
type words []string

// UnmarshalTOML implements toml.Unmarshaler.
func (w *words) UnmarshalTOML(v any) error {
	switch v := v.(type) {
	case string:
		*w = words{v}
	case int64:
		*w = words{strconv.FormatInt(v, 10)}
	case []any:
		*w = words{}
		for _, e := range v {
			var one words
			if err := one.UnmarshalTOML(e); err != nil || len(one) != 1 {
				return fmt.Errorf("want a string or a list of strings")
			}
			*w = append(*w, one[0])
		}
	default:
		return fmt.Errorf("want a string or a list of strings")
	}
	return nil
}

// ParseRules reads rules as TOML. An unknown key, an empty file and a rule that
// can never match are errors: rules that silently select nothing would pass
// everything.
func ParseRules(text []byte) (*Rules, error) {
	if len(text) > maxRulesText {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are read", ErrRules, len(text), maxRulesText)
	}
	var file tomlRules
	meta, err := toml.Decode(string(text), &file)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRules, err)
	}
	for _, key := range meta.Undecoded() {
		return nil, fmt.Errorf("%w: unknown key %q", ErrRules, key.String())
	}
	if n := len(file.Rule); n == 0 || n > maxRules {
		return nil, fmt.Errorf("%w: %d rules, want 1 to %d", ErrRules, n, maxRules)
	}
	rules := &Rules{text: slices.Clone(text)}
	for i := range file.Rule {
		m, err := file.Rule[i].matcher()
		if err != nil {
			return nil, fmt.Errorf("%w: rule %d: %w", ErrRules, i+1, err)
		}
		if m.rule.Name == "" {
			m.rule.Name = fmt.Sprintf("rule %d", i+1)
		}
		rules.rules = append(rules.rules, *m)
	}
	return rules, nil
}

func (t *tomlRule) matcher() (*matcher, error) {
	m := &matcher{rule: Rule{Name: t.Name, Sealed: t.NoDiff, Diff: t.Diff}}
	if t.Diff && t.NoDiff {
		return nil, fmt.Errorf("diff and nodiff together: use one")
	}
	if t.Level == "" {
		return nil, fmt.Errorf("no level: want protect, verify, record or ignore")
	}
	if err := m.rule.Level.UnmarshalText([]byte(t.Level)); err != nil {
		return nil, err
	}
	var err error
	m.rule.Check = AllAttributes
	if t.Check != nil {
		if len(t.Check) == 0 {
			return nil, fmt.Errorf("check is empty: leave it out for everything, or use level ignore")
		}
		if m.rule.Check, err = ParseAttributes(t.Check); err != nil {
			return nil, err
		}
	}
	if t.Diff && m.rule.Check&(AttrContent|AttrSHA256|AttrGrowing) == 0 {
		return nil, fmt.Errorf("diff needs content, sha256 or growing in check")
	}
	if err := t.selectPath(m); err != nil {
		return nil, err
	}
	return m, t.selectObject(m)
}

func (t *tomlRule) selectPath(m *matcher) error {
	switch {
	case t.Regex != "" && t.Path != nil:
		return fmt.Errorf("path and regex together: use one")
	case t.Regex != "":
		var err error
		// (?s): a name may hold a newline, and must not escape "." by it.
		if m.regex, err = regexp.Compile("(?s)" + t.Regex); err != nil {
			return fmt.Errorf("regex: %w", err)
		}
		m.prefix = anchoredPrefix(t.Regex)
	case t.Path != nil && len(t.Path) == 0:
		return fmt.Errorf("path is empty")
	}
	for _, p := range t.Path {
		globs, err := parseGlobs(p)
		if err != nil {
			return err
		}
		m.globs = append(m.globs, globs...)
	}
	return nil
}

func (t *tomlRule) selectObject(m *matcher) error {
	for _, w := range t.Type {
		if !slices.Contains([]Type{TypeFile, TypeDir, TypeSymlink, TypeChar, TypeBlock, TypeFIFO, TypeSocket}, Type(w)) {
			return fmt.Errorf("unknown type %q: want file, dir, symlink, char, block, fifo or socket", w)
		}
		m.types = append(m.types, Type(w))
	}
	for _, w := range t.Owner {
		o, err := parseOwner(w)
		if err != nil {
			return err
		}
		m.owners = append(m.owners, o)
	}
	for _, w := range t.Size {
		l, err := parseSize(w)
		if err != nil {
			return err
		}
		m.sizes = append(m.sizes, l)
	}
	m.volumes = t.Volume
	return nil
}

// parseOwner reads "UID", "UID:GID", ":GID"; "root" is 0.
func parseOwner(s string) (owner, error) {
	user, group, both := strings.Cut(s, ":")
	o := owner{-1, -1}
	for _, part := range []struct {
		text string
		to   *int64
	}{{user, &o.uid}, {group, &o.gid}} {
		switch part.text {
		case "":
		case "root":
			*part.to = 0
		default:
			n, err := strconv.ParseUint(part.text, 10, 32)
			if err != nil {
				return o, fmt.Errorf("owner %q: want UID, UID:GID or :GID by number (names are the guest's to change), or root", s)
			}
			*part.to = int64(n)
		}
	}
	if user == "" && (!both || group == "") {
		return o, fmt.Errorf("owner %q is empty", s)
	}
	return o, nil
}

// parseSize reads "<10k", ">=1M", "4096"; k, M, G and T are powers of 1024.
func parseSize(s string) (sizeLimit, error) {
	l := sizeLimit{op: "="}
	rest := strings.TrimSpace(s)
	for _, op := range []string{"<=", ">=", "<", ">", "="} {
		if after, ok := strings.CutPrefix(rest, op); ok {
			l.op, rest = op, strings.TrimSpace(after)
			break
		}
	}
	digits := strings.TrimRight(rest, "kKMGTiB")
	shift, ok := map[string]uint{"": 0, "B": 0, "k": 10, "K": 10, "KiB": 10, "M": 20, "MiB": 20, "G": 30, "GiB": 30, "T": 40, "TiB": 40}[rest[len(digits):]]
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || !ok || n < 0 || n > (1<<62)>>shift {
		return l, fmt.Errorf("size %q: want a comparison with a number, like <10k or >=1M", s)
	}
	l.bytes = n << shift
	return l, nil
}
