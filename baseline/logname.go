package baseline

import (
	"path"
	"regexp"
	"slices"
	"strings"
)

// logName is a log's name as logrotate(8) 3.21 makes it: stem, what tells its
// rotations apart ("", ".1", "-20260101"), the end of the log's own name that
// "extension" keeps at the end of theirs ("", ".log"), and what it is packed with
// ("", ".gz").
type logName struct {
	dir, stem, suffix, ext, packed string
}

// packings are what logrotate's compresscmd is set to, by the names of their files.
var packings = []string{".gz", ".xz", ".zst", ".bz2"}

// rotationSuffix is what logrotate puts behind a log's name: a number, which "start"
// may have begin at 0, or with "dateext" what "dateformat" makes of %Y, %m, %d, %H, %M,
// %S, %V and %s: the year first, all others two digits, the seconds since 1970 last or
// alone. The character before it is the dateformat's.
var rotationSuffix = regexp.MustCompile(`^[-._](0|[1-9][0-9]{0,4}|(19|20)[0-9]{2}([-._]?[0-9]{2}){1,5}([-._]?[0-9]{10})?|[1-9][0-9]{9})$`)

// keptExtension is what "extension" is set to. A number is none: of log.1.2 it is the
// rotation's.
var keptExtension = regexp.MustCompile(`^\.[A-Za-z][A-Za-z0-9_]{0,31}$`)

// logNamesOf gives what a name may be: that of a log or of its rotation, and, where the
// first has no suffix, of a rotation with an extension: app-1.log is a log whose
// rotations are app-1.log.1, or a rotation of app.log. The second is empty where it is
// not.
func logNamesOf(name string) (names [2]logName) {
	l := logNameOf(name)
	names[0] = l
	ext := path.Ext(l.stem)
	if l.suffix != "" || !keptExtension.MatchString(ext) {
		return names
	}
	kept := logNameOf(l.dir + strings.TrimSuffix(l.stem, ext))
	if kept.packed == "" && kept.rotation() {
		kept.ext, kept.packed = ext, l.packed
		names[1] = kept
	}
	return names
}

// rotationNameOf is the one of a name's readings that is a rotation, false for none.
func rotationNameOf(name string) (logName, bool) {
	for _, l := range logNamesOf(name) {
		if l.rotation() {
			return l, true
		}
	}
	return logName{}, false
}

// logNameOf leaves extensions out.
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

// log is the name of the log itself, without its directory.
func (l logName) log() string { return l.stem + l.ext }

// follows says that what was at a name may be at l, a rotation, now, but for the
// directory: a log anywhere, its rotation by the same scheme, packed as it was.
func (l logName) follows(was logName) bool {
	return l.log() == was.log() && (was.suffix == "" || was.ext == l.ext) && (was.packed == "" || was.packed == l.packed)
}

// hidden says that the directory is one that listings leave out, or odd.
func (l logName) hidden() bool {
	return slices.ContainsFunc(strings.Split(l.dir, "/"), func(dir string) bool {
		return dir != "" && (dir[0] == '.' || oddName("/"+dir))
	})
}

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
