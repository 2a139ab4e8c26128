package aide

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strings"
	"unicode"
)

// types are AIDE's letters for file types ("Restricted selection lines").
var types = map[string]string{"f": "file", "d": "dir", "l": "symlink", "c": "char", "b": "block", "p": "fifo", "s": "socket"}

// selection reads "/regex [types] group", "=/regex ...", "!/regex [types]" and, of
// AIDE 0.19, "-/regex [types]".
func (c *Config) selection(line, file string, n int) error {
	kind, text := line[0], line
	if kind != '/' {
		line = line[1:]
	}
	if kind == '-' && c.release() == Release018 {
		return errors.New("there are no such rules in AIDE 0.18")
	}
	negative := kind == '!' || kind == '-'
	fields := split(line)
	r := rule{equal: kind == '=', where: fmt.Sprintf("%s:%d", file, n)}
	if len(fields) == 0 || !strings.HasPrefix(fields[0], "/") {
		return errors.New("not a path")
	}
	rest := fields[1:]
	if len(rest) > 0 && (negative || len(rest) > 1) {
		if err := r.restrict(rest[0]); err != nil {
			return err
		}
		rest = rest[1:]
	}
	path := c.prefix + fields[0]
	r.regex = "^(?:" + path + ")"
	if _, err := regexp.Compile(r.regex); err != nil {
		return fmt.Errorf("regular expression is not in RE2's language: %w", err)
	}
	dir, name := literal(path)
	if r.equal {
		parsed, err := syntax.Parse(name, syntax.Perl)
		if err != nil {
			return fmt.Errorf("regular expression of a name below %s: %w", dir, err)
		}
		r.regex = "^" + regexp.QuoteMeta(dir) + "(?:" + withoutSlash(parsed).String() + ")[^/]*$"
	}
	r.node = strings.Count(dir, "/")
	if negative {
		if len(rest) > 0 {
			return errors.New("a rule that leaves something out has no group")
		}
		return c.exclude(&r, kind, path, func(reason string) { c.refuse(file, n, text, reason) })
	}
	if len(rest) != 1 {
		return errors.New("a selection has one group")
	}
	set, err := c.parse(rest[0])
	if err != nil {
		return err
	}
	r.set = set
	if _, missing := set.check(); len(missing) > 0 {
		for _, name := range missing {
			c.refuse(file, n, line, fmt.Sprintf("attribute %s: %s; the rest of the rule is taken", name, unkept[name]))
		}
	}
	c.positive = append(c.positive, r)
	return nil
}

// exclude takes a rule that leaves something out. What is below a directory that it
// matches goes too by "-" and, where it names no types, by the "!" of AIDE 0.18; the
// "!" of 0.19 is looked at anew for each object.
func (c *Config) exclude(r *rule, kind byte, path string, note func(string)) error {
	below := belowToo(path)
	switch {
	case kind == '!' && r.types == nil && c.release() == Release018, kind == '-' && r.types == nil:
		r.regex = "^(?:" + below + ")"
	case kind == '-' && slices.Contains(r.types, "dir"):
		under := rule{where: r.where, node: r.node}
		switch head, ends := strings.CutSuffix(path, "$"); {
		case below == path: // matches any beginning of a path
			under.regex = "^(?:" + path + ")(?s:.*)/"
		case ends && belowToo(head) == head && !strings.Contains(head, "|"):
			under.regex = "^(?:" + head + ")/"
		default:
			return errors.New("a rule for directories with what is below may have one $, at its end, and no |")
		}
		c.negative = append(c.negative, under)
	case kind == '!' && r.types == nil && c.options.Release == "" && below != path:
		note("taken as AIDE 0.19 does, which looks at what is below a directory all the same; 0.18 leaves it out: --aide-version says which")
	}
	c.negative = append(c.negative, *r)
	return nil
}

// withoutSlash leaves of an expression what matches no "/". AIDE looks at an "=" rule
// for what is in the directory that its expression begins with and not below, and
// there, as at others, for each name that begins as it says.
func withoutSlash(re *syntax.Regexp) *syntax.Regexp {
	switch re.Op {
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		re.Op, re.Rune = syntax.OpCharClass, []rune{0, '/' - 1, '/' + 1, unicode.MaxRune}
	case syntax.OpLiteral:
		if slices.Contains(re.Rune, '/') {
			re.Op = syntax.OpNoMatch
		}
	case syntax.OpCharClass:
		var without []rune
		for i := 0; i < len(re.Rune); i += 2 {
			low, high := re.Rune[i], re.Rune[i+1]
			if low > '/' || high < '/' {
				without = append(without, low, high)
				continue
			}
			if low < '/' {
				without = append(without, low, '/'-1)
			}
			if high > '/' {
				without = append(without, '/'+1, high)
			}
		}
		re.Rune = without
	}
	for _, sub := range re.Sub {
		withoutSlash(sub)
	}
	return re
}

// restrict reads the types of files of a rule. The file system's, which AIDE 0.19
// has behind "=", are not known here: without it, a rule would be for others.
func (r *rule) restrict(letters string) error {
	if letters == "0" {
		return nil
	}
	if _, system, ok := strings.Cut(letters, "="); ok {
		return fmt.Errorf("rules are not for one type of file system (%s)", system)
	}
	for letter := range strings.SplitSeq(letters, ",") {
		name, ok := types[letter]
		if !ok {
			return fmt.Errorf("file type %q is not known", letter)
		}
		r.types = append(r.types, name)
	}
	return nil
}

// split separates fields at blanks; a backslash before a blank, "@" or another
// backslash keeps that one.
func split(line string) []string {
	var out []string
	var b strings.Builder
	for i := 0; i < len(line); i++ {
		switch ch := line[i]; {
		case ch == '\\' && i+1 < len(line) && strings.IndexByte(` @\`, line[i+1]) >= 0:
			i++
			b.WriteByte(line[i])
		case ch == ' ' || ch == '\t':
			if b.Len() > 0 {
				out = append(out, b.String())
				b.Reset()
			}
		default:
			b.WriteByte(ch)
		}
	}
	if b.Len() > 0 {
		out = append(out, b.String())
	}
	return out
}

// literal is the directory whose rules AIDE counts an expression among, and what of
// the expression is behind it: AIDE takes the text up to the first of ( ^ $ ? * [ for
// a path, "." and all.
func literal(regex string) (dir, rest string) {
	var prefix strings.Builder
	for i := 0; i < len(regex) && strings.IndexByte("(^$?*[", regex[i]) < 0; i++ {
		if regex[i] == '\\' {
			i++
		}
		if i < len(regex) {
			prefix.WriteByte(regex[i])
			if regex[i] == '/' {
				dir, rest = prefix.String(), regex[i+1:]
			}
		}
	}
	return dir, rest
}

// belowToo lets an expression that ends at the end of a path match what is below
// that path as well.
func belowToo(regex string) string {
	var b strings.Builder
	class := false
	for i := 0; i < len(regex); i++ {
		switch ch := regex[i]; {
		case ch == '\\' && i+1 < len(regex):
			b.WriteString(regex[i : i+2])
			i++
			continue
		case class && ch == '[' && strings.Contains(regex[i:], ":]"):
			end := i + strings.Index(regex[i:], ":]") + 2 // [:digit:]
			b.WriteString(regex[i:end])
			i = end - 1
			continue
		case ch == '[':
			class = true
		case ch == ']':
			class = false
		case ch == '$' && !class:
			b.WriteString("(?:/|$)")
			continue
		}
		b.WriteByte(regex[i])
	}
	return b.String()
}

// TOML gives the configuration as rules. AIDE looks at negative selections
// first, then at those in the deepest directory, there at "=" before others:
// written in that order, the first match is AIDE's.
func (c *Config) TOML() []byte {
	var b bytes.Buffer
	b.WriteString("# Imported from AIDE's configuration.\n")
	for i := range c.negative {
		c.negative[i].write(&b, "ignore", nil)
	}
	positive := slices.Clone(c.positive)
	slices.SortStableFunc(positive, func(x, y rule) int {
		if d := cmp.Compare(y.node, x.node); d != 0 || x.equal == y.equal {
			return d
		}
		if x.equal {
			return -1
		}
		return 1
	})
	for i := range positive {
		check, _ := positive[i].set.check()
		positive[i].write(&b, "verify", check)
	}
	return b.Bytes()
}

func (r *rule) write(b *bytes.Buffer, level string, check []string) {
	fmt.Fprintf(b, "\n[[rule]]\nname = %s\nregex = %s\n", quote(r.where), quote(r.regex))
	if r.types != nil {
		fmt.Fprintf(b, "type = %s\n", quoteAll(r.types))
	}
	if level != "ignore" && len(check) == 0 {
		check = []string{"type"} // the group E: only that it is there
	}
	fmt.Fprintf(b, "level = %q\n", level)
	if check != nil {
		fmt.Fprintf(b, "check = %s\n", quoteAll(check))
	}
}

// quote is a TOML basic string.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, ch := range s {
		switch {
		case ch == '"' || ch == '\\':
			b.WriteByte('\\')
			b.WriteRune(ch)
		case ch < 0x20 || ch == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, ch)
		default:
			b.WriteRune(ch)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func quoteAll(list []string) string {
	var out []string
	for _, s := range list {
		out = append(out, quote(s))
	}
	return "[" + strings.Join(out, ", ") + "]"
}
