package baseline

import (
	"path"
	"regexp"
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

// rotationSuffix is what logrotate puts behind a log's name: a number, which "start"
// may have begin at 0, or with "dateext" what "dateformat" makes of %Y, %m, %d, %H, %M,
// %S, %V and %s: the year first, all others two digits, the seconds since 1970 last or
// alone. The character before it is the dateformat's.
var rotationSuffix = regexp.MustCompile(`^[-._](0|[1-9][0-9]{0,4}|(19|20)[0-9]{2}([-._]?[0-9]{2}){1,5}([-._]?[0-9]{10})?|[1-9][0-9]{9})$`)

func logNameOf(name string) (l logName) {
	l.dir, l.stem = path.Split(name)
	if ext := path.Ext(l.stem); slices.Contains(packings, ext) {
		l.stem, l.packed = strings.TrimSuffix(l.stem, ext), ext
	}
	// The longest: of log-2026-01-02 it is a date, not the number of a log-2026-01.
	for at := len(strings.TrimRight(l.stem, ".-_0123456789")); at < len(l.stem); at++ {
		if rotationSuffix.MatchString(l.stem[at:]) {
			l.stem, l.suffix = l.stem[:at], l.stem[at:]
			break
		}
	}
	return l
}

// rotation says that the name is that of a log that was moved aside.
func (l logName) rotation() bool { return l.stem != "" && l.suffix != "" }

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
		return len(a) < len(b) || len(a) == len(b) && a < b
	}
	return false
}

// dateDigits are the fewest that a date has: YYYYMM. Numbers of rotations have less.
const dateDigits = 6

func digits(s string) string {
	return strings.Map(func(c rune) rune {
		if c < '0' || c > '9' {
			return -1
		}
		return c
	}, s)
}
