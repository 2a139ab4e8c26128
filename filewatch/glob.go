package filewatch

import (
	"fmt"
	"strings"
)

// maxBraces bounds how many patterns one pattern with {a,b} may stand for.
const maxBraces = 256

// glob matches guest paths: "*" and "?" stay within one path element, "**"
// crosses them, "[a-z]" and "[!a-z]" are classes of bytes, "\" takes the next
// byte as it is. Raw bytes are compared, so names in any encoding match.
type glob struct {
	prefix  string // literal beginning, decides most paths at once
	pattern string // the rest
}

// parseGlobs expands {a,b} and checks each pattern.
func parseGlobs(pattern string) ([]glob, error) {
	if !strings.HasPrefix(pattern, "/") && !strings.HasPrefix(pattern, "**") {
		return nil, fmt.Errorf("path %q: a pattern starts with / or **", pattern)
	}
	patterns, err := expandBraces(pattern, nil)
	if err != nil {
		return nil, fmt.Errorf("path %q: %w", pattern, err)
	}
	var globs []glob
	for _, p := range patterns {
		if err := checkGlob(p); err != nil {
			return nil, fmt.Errorf("path %q: %w", pattern, err)
		}
		n := strings.IndexAny(p, `*?[\`)
		if n < 0 {
			n = len(p)
		}
		globs = append(globs, glob{p[:n], p[n:]})
	}
	return globs, nil
}

func expandBraces(p string, out []string) ([]string, error) {
	open, end, depth := -1, -1, 0
	var commas []int
	for i := 0; i < len(p) && end < 0; i++ {
		switch p[i] {
		case '\\':
			i++
		case '{':
			if depth++; depth == 1 {
				open = i
			}
		case ',':
			if depth == 1 {
				commas = append(commas, i)
			}
		case '}':
			if depth--; depth == 0 {
				end = i
			}
		}
		if depth < 0 || depth > 8 {
			return nil, fmt.Errorf("unbalanced or too deep braces")
		}
	}
	switch {
	case open < 0:
		if len(out) == maxBraces {
			return nil, fmt.Errorf("stands for more than %d patterns", maxBraces)
		}
		return append(out, p), nil
	case end < 0:
		return nil, fmt.Errorf("{ without }")
	}
	start := open + 1
	for _, stop := range append(commas, end) {
		var err error
		if out, err = expandBraces(p[:open]+p[start:stop]+p[end+1:], out); err != nil {
			return nil, err
		}
		start = stop + 1
	}
	return out, nil
}

func checkGlob(p string) error {
	for i := 0; i < len(p); i++ {
		switch p[i] {
		case '\\':
			if i++; i == len(p) {
				return fmt.Errorf(`ends in \`)
			}
		case '[':
			n := classLen(p[i:])
			if n == 0 {
				return fmt.Errorf("[ without ]")
			}
			i += n - 1
		}
	}
	return nil
}

// classLen is the length of the class that p starts with, 0 when it has no end.
func classLen(p string) int {
	i := 1
	if i < len(p) && p[i] == '!' {
		i++
	}
	if i < len(p) && p[i] == ']' {
		i++
	}
	if n := strings.IndexByte(p[min(i, len(p)):], ']'); n >= 0 {
		return i + n + 1
	}
	return 0
}

// match runs in time proportional to the product of both lengths: it keeps the
// last "*" and the last "**" to come back to, never more.
func (g *glob) match(name string) bool {
	if !strings.HasPrefix(name, g.prefix) {
		return false
	}
	name = name[len(g.prefix):]
	if g.pattern == "**" {
		return name != ""
	}
	p := g.pattern
	starP, starN := -1, 0   // after the last "*", and where it has matched to
	dstarP, dstarN := -1, 0 // the same for "**"
	i, n := 0, 0
	for {
		switch {
		case strings.HasPrefix(p[i:], "**/") && g.element(i):
			// As a whole element "**/" also stands for nothing: "/**/x"
			// matches "/x".
			i += 3
			dstarP, dstarN, starP = i, n, -1
			continue
		case strings.HasPrefix(p[i:], "**"):
			i += 2
			dstarP, dstarN, starP = i, n, -1
			continue
		case i < len(p) && p[i] == '*':
			i++
			starP, starN = i, n
			continue
		case i == len(p) && n == len(name):
			return true
		case n < len(name) && i < len(p):
			if used, ok := matchByte(p[i:], name[n]); ok {
				i, n = i+used, n+1
				continue
			}
		}
		// Mismatch: let the last star take one byte more.
		switch {
		case starP >= 0 && starN < len(name) && name[starN] != '/':
			starN++
			i, n = starP, starN
		case dstarP >= 0 && dstarN < len(name):
			dstarN++
			if p[dstarP-1] == '/' { // "**/" takes whole elements
				slash := strings.IndexByte(name[dstarN-1:], '/')
				if slash < 0 {
					return false
				}
				dstarN += slash
			}
			i, n, starP = dstarP, dstarN, -1
		default:
			return false
		}
	}
}

// element says that position i of the pattern starts a path element.
func (g *glob) element(i int) bool {
	if i == 0 {
		return g.prefix == "" || g.prefix[len(g.prefix)-1] == '/'
	}
	return g.pattern[i-1] == '/'
}

// matchByte matches one byte against the element that p starts with and gives
// that element's length.
func matchByte(p string, c byte) (int, bool) {
	switch p[0] {
	case '?':
		return 1, c != '/'
	case '\\':
		return 2, p[1] == c
	case '[':
		n := classLen(p)
		class := p[1 : n-1]
		negate := strings.HasPrefix(class, "!")
		class = strings.TrimPrefix(class, "!")
		in := false
		for len(class) > 0 {
			if len(class) >= 3 && class[1] == '-' {
				in = in || class[0] <= c && c <= class[2]
				class = class[3:]
				continue
			}
			in = in || class[0] == c
			class = class[1:]
		}
		return n, c != '/' && in != negate
	}
	return 1, p[0] == c
}

// Paths is a set of path patterns as rules have them.
type Paths struct{ globs []glob }

// ParsePaths reads patterns.
func ParsePaths(patterns []string) (*Paths, error) {
	p := &Paths{}
	for _, pattern := range patterns {
		globs, err := parseGlobs(pattern)
		if err != nil {
			return nil, err
		}
		p.globs = append(p.globs, globs...)
	}
	return p, nil
}

// Match says that one of the patterns matches path.
func (p *Paths) Match(path string) bool {
	for i := range p.globs {
		if p.globs[i].match(path) {
			return true
		}
	}
	return false
}
