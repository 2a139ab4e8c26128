package aide

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// types are AIDE's letters for file types ("Restricted selection lines").
var types = map[string]string{"f": "file", "d": "dir", "l": "symlink", "c": "char", "b": "block", "p": "fifo", "s": "socket"}

// selection reads "/regex [types] group", "=/regex ..." and "!/regex [types]".
func (c *Config) selection(line, file string, n int) error {
	kind := line[0]
	if kind != '/' {
		line = line[1:]
	}
	if kind == '-' {
		return errors.New("there are no such rules in AIDE 0.18")
	}
	fields := split(line)
	r := rule{equal: kind == '=', where: fmt.Sprintf("%s:%d", file, n)}
	if len(fields) == 0 || !strings.HasPrefix(fields[0], "/") {
		return errors.New("not a path")
	}
	rest := fields[1:]
	if len(rest) > 0 && (kind == '!' || len(rest) > 1) {
		if err := r.restrict(rest[0]); err != nil {
			return err
		}
		rest = rest[1:]
	}
	r.regex = "^(?:" + c.prefix + fields[0] + ")"
	if r.equal {
		r.regex += "$"
	}
	if _, err := regexp.Compile(r.regex); err != nil {
		return fmt.Errorf("regular expression is not in RE2's language: %w", err)
	}
	r.node = strings.Count(literal(c.prefix+fields[0]), "/")
	if kind == '!' {
		if r.types == nil {
			// Without a type, what is below a directory that matches goes too.
			r.regex = "^(?:" + belowToo(c.prefix+fields[0]) + ")"
		}
		c.negative = append(c.negative, r)
		return nil
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

func (r *rule) restrict(letters string) error {
	if letters == "0" {
		return nil
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

// literal is the directory whose rules AIDE counts an expression among: it takes
// the text up to the first of ( ^ $ ? * [ for a path, "." and all.
func literal(regex string) string {
	var prefix strings.Builder
	for i := 0; i < len(regex) && strings.IndexByte("(^$?*[", regex[i]) < 0; i++ {
		if regex[i] == '\\' {
			i++
		}
		if i < len(regex) {
			prefix.WriteByte(regex[i])
		}
	}
	return prefix.String()[:strings.LastIndexByte(prefix.String(), '/')+1]
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
