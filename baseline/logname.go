package baseline

import (
	"path"
	"slices"
	"strings"
)

// logName is a log's name as logrotate(8) 3.21 makes it: stem, what tells its
// rotations apart ("", ".1", "-20260101") and what it is packed with ("", ".gz").
type logName struct {
	dir, stem, suffix, packed string
}

// packings are what logrotate's compresscmd is set to, by the names of their files.
var packings = []string{".gz", ".xz", ".zst", ".bz2"}

func logNameOf(name string) (l logName) {
	l.dir, l.stem = path.Split(name)
	if ext := path.Ext(l.stem); slices.Contains(packings, ext) {
		l.stem, l.packed = strings.TrimSuffix(l.stem, ext), ext
	}
	suffix := strings.TrimLeft(l.stem[len(strings.TrimRight(l.stem, ".-_0123456789")):], "0123456789") // log2 is a log
	l.stem, l.suffix = strings.TrimSuffix(l.stem, suffix), suffix
	return l
}

// rotation says that the name is that of a log that was moved aside.
func (l logName) rotation() bool {
	return l.stem != "" && strings.ContainsAny(l.suffix, "0123456789")
}

// of says that two names are of one log.
func (l logName) of(other logName) bool { return l.dir == other.dir && l.stem == other.stem }

// newer says that a rotation was made after another one of the same log, where the
// names say so: ".1" after ".2", "-20260102" after "-20260101".
func (l logName) newer(than logName) bool {
	a, b := digits(l.suffix), digits(than.suffix)
	switch {
	case len(a) >= dateDigits && len(a) == len(b):
		return a > b
	case len(a) < dateDigits && len(b) < dateDigits:
		a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
		return len(a) < len(b) || len(a) == len(b) && a < b
	}
	return false
}

// dateDigits are the fewest that a date has: YYMMDD. Numbers of rotations have less.
const dateDigits = 6

func digits(s string) string {
	return strings.Map(func(c rune) rune {
		if c < '0' || c > '9' {
			return -1
		}
		return c
	}, s)
}
