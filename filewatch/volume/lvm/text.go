package lvm

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// section is a node of the metadata text: values are int64, string or []any.
type section struct {
	values   map[string]any
	sections map[string]*section
	order    []string // names of sections as they stand
}

func newSection() *section {
	return &section{values: map[string]any{}, sections: map[string]*section{}}
}

func (s *section) str(name string) string { v, _ := s.values[name].(string); return v }
func (s *section) num(name string) int64  { v, _ := s.values[name].(int64); return v }
func (s *section) list(name string) []any { v, _ := s.values[name].([]any); return v }
func (s *section) sub(name string) *section {
	if c := s.sections[name]; c != nil {
		return c
	}
	return newSection()
}

const maxDepth = 8

// parser reads the configuration language of LVM (lib/config).
type parser struct {
	s  string
	at int
}

// parse reads a whole text. What LVM would read in another way than it stands there
// is refused: it ends at a NUL, takes a slash in a name for a path, and names that
// come twice as its versions do.
func parse(text string) (*section, error) {
	if at := strings.IndexByte(text, 0); at >= 0 {
		return nil, fmt.Errorf("metadata with a NUL at byte %d: %w", at, filewatch.ErrCorrupt)
	}
	p := parser{s: text}
	s, err := p.section(0)
	if err != nil {
		return nil, fmt.Errorf("metadata at byte %d: %w: %w", p.at, filewatch.ErrCorrupt, err)
	}
	return s, nil
}

// section reads up to a closing brace or the end.
func (p *parser) section(depth int) (*section, error) {
	s := newSection()
	if depth > maxDepth {
		return nil, fmt.Errorf("sections are nested too deeply")
	}
	for {
		p.space()
		if p.at >= len(p.s) {
			if depth > 0 {
				return nil, fmt.Errorf("section without an end")
			}
			return s, nil
		}
		if p.s[p.at] == '}' {
			if depth == 0 {
				return nil, fmt.Errorf("brace without a section")
			}
			p.at++
			return s, nil
		}
		name := p.word()
		p.space()
		if name == "" || p.at >= len(p.s) {
			return nil, fmt.Errorf("name expected")
		}
		if _, twice := s.values[name]; twice || s.sections[name] != nil || strings.Contains(name, "/") {
			return nil, fmt.Errorf("%q comes twice, or is a path", name)
		}
		switch p.s[p.at] {
		case '{':
			p.at++
			sub, err := p.section(depth + 1)
			if err != nil {
				return nil, err
			}
			s.order = append(s.order, name)
			s.sections[name] = sub
		case '=':
			p.at++
			v, err := p.value()
			if err != nil {
				return nil, err
			}
			s.values[name] = v
		default:
			return nil, fmt.Errorf("%q after %q", p.s[p.at], name)
		}
	}
}

// value reads a number, a string or a list of them.
func (p *parser) value() (any, error) {
	p.space()
	if p.at >= len(p.s) {
		return nil, fmt.Errorf("value expected")
	}
	switch p.s[p.at] {
	case '"':
		return p.quoted()
	case '[':
		p.at++
		list := []any{}
		for {
			p.space()
			if p.at >= len(p.s) {
				return nil, fmt.Errorf("list without an end")
			}
			switch p.s[p.at] {
			case ']':
				p.at++
				return list, nil
			case ',':
				p.at++
			case '[':
				return nil, fmt.Errorf("list in a list")
			default:
				v, err := p.value()
				if err != nil {
					return nil, err
				}
				list = append(list, v)
			}
		}
	}
	w := p.word()
	n, err := strconv.ParseInt(w, 10, 64)
	if err != nil {
		if _, err := strconv.ParseFloat(w, 64); err == nil && w != "" {
			return w, nil
		}
		return nil, fmt.Errorf("number expected, not %q", w)
	}
	return n, nil
}

func (p *parser) quoted() (string, error) {
	var b strings.Builder
	for p.at++; p.at < len(p.s); p.at++ {
		switch c := p.s[p.at]; c {
		case '"':
			p.at++
			return b.String(), nil
		case '\\':
			p.at++
			if p.at < len(p.s) {
				b.WriteByte(p.s[p.at])
			}
		default:
			b.WriteByte(c)
		}
	}
	return "", fmt.Errorf("string without an end")
}

// word reads a name or a number.
func (p *parser) word() string {
	start := p.at
	for p.at < len(p.s) && !strings.ContainsRune(" \t\r\n{}[]=,\"#", rune(p.s[p.at])) {
		p.at++
	}
	return p.s[start:p.at]
}

// space passes over blanks and comments.
func (p *parser) space() {
	for p.at < len(p.s) {
		switch c := p.s[p.at]; {
		case c == '#':
			for p.at < len(p.s) && p.s[p.at] != '\n' {
				p.at++
			}
		case strings.IndexByte(" \t\r\n", c) >= 0:
			p.at++
		default:
			return
		}
	}
}
