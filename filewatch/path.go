package filewatch

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// ErrBadEscape is returned for text that [EscapePath] cannot have made.
var ErrBadEscape = errors.New("bad escape in path")

// EscapePath writes the raw bytes of a path as text: bytes that are not UTF-8
// read \xNN, a backslash reads \x5c, everything else is itself. No two paths
// have the same text.
func EscapePath(raw string) string {
	if utf8.ValidString(raw) && strings.IndexByte(raw, '\\') < 0 {
		return raw
	}
	return escape(raw, func(rune) bool { return false })
}

// PrintablePath is EscapePath for a terminal: control characters and Unicode
// direction marks are escaped too, so that a file's name cannot draw on the
// screen of who reads about it. UnescapePath undoes it as well.
func PrintablePath(raw string) string {
	return escape(raw, func(r rune) bool {
		return r < 0x20 || r >= 0x7f && r < 0xa0 ||
			r >= 0x200b && r <= 0x200f || r >= 0x2028 && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0xfeff
	})
}

func escape(raw string, also func(rune) bool) string {
	var b strings.Builder
	for i := 0; i < len(raw); {
		r, n := utf8.DecodeRuneInString(raw[i:])
		if r == '\\' || r == utf8.RuneError && n == 1 || also(r) {
			for _, c := range []byte(raw[i : i+n]) {
				fmt.Fprintf(&b, `\x%02x`, c)
			}
		} else {
			b.WriteString(raw[i : i+n])
		}
		i += n
	}
	return b.String()
}

// UnescapePath is the inverse of EscapePath.
func UnescapePath(text string) (string, error) {
	if strings.IndexByte(text, '\\') < 0 {
		return text, nil
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' {
			b.WriteByte(text[i])
			continue
		}
		if i+4 > len(text) || text[i+1] != 'x' {
			return "", fmt.Errorf("%w: %q", ErrBadEscape, text)
		}
		hi, lo := unhex(text[i+2]), unhex(text[i+3])
		if hi < 0 || lo < 0 {
			return "", fmt.Errorf("%w: %q", ErrBadEscape, text)
		}
		b.WriteByte(byte(hi<<4 | lo))
		i += 3
	}
	return b.String(), nil
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
