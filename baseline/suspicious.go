package baseline

import (
	"path"
	"slices"
	"strings"
	"unicode"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Pattern is something about a change that attackers do and upkeep seldom does.
type Pattern string

// The patterns.
const (
	// TimesPutBack: the content changed and the modification time did not.
	TimesPutBack Pattern = "content-changed-times-kept"
	// SetuidAdded: the object now runs as its owner or group.
	SetuidAdded Pattern = "setuid-added"
	// CapabilityAdded: the object now carries or changed file capabilities.
	CapabilityAdded Pattern = "capability-added"
	// OddName: a name made not to be seen.
	OddName Pattern = "odd-name"
	// LogTruncated: what was in a log is no longer there.
	LogTruncated Pattern = "log-truncated"
	// DeviceOutOfPlace: a device node outside /dev.
	DeviceOutOfPlace Pattern = "device-out-of-place"
	// ExecutableOutOfPlace: an executable where none belongs.
	ExecutableOutOfPlace Pattern = "executable-out-of-place"
)

const setID = filewatch.ModeSetuid | filewatch.ModeSetgid

// suspicious looks at both states whatever the rule compares; either may be nil.
func suspicious(old, new *Record) []Pattern {
	if new == nil {
		return nil
	}
	var found []Pattern
	add := func(p Pattern, when bool) {
		if when {
			found = append(found, p)
		}
	}
	was := old
	if was == nil {
		was = &Record{Names: []string{""}}
	}
	isNew := was.Path() != new.Path()
	add(TimesPutBack, old != nil && contentDiffers(old, new) && old.Mtime.Equal(new.Mtime))
	add(SetuidAdded, new.Type == filewatch.TypeFile && new.Mode&setID&^was.Mode != 0)
	add(CapabilityAdded, capability(new) != "" && capability(new) != capability(was))
	add(OddName, isNew && oddName(new.Path()))
	add(LogTruncated, old != nil && new.Type == filewatch.TypeFile && new.Size < old.Size && under(new.Path(), "/var/log"))
	add(DeviceOutOfPlace, isDevice(new) && (isNew || !isDevice(was)) && !under(new.Path(), "/dev"))
	add(ExecutableOutOfPlace, new.Executable() && (isNew || !was.Executable()) && noProgramsIn(new.Path()))
	return found
}

func contentDiffers(old, new *Record) bool {
	same, known := old.SameContent(new.BLAKE3, new.SHA256)
	return known && !same
}

func capability(r *Record) string {
	value, _ := r.Xattr("security.capability")
	return string(value)
}

// isDevice leaves out 0:0, which overlayfs uses for deleted files.
func isDevice(r *Record) bool {
	return (r.Type == filewatch.TypeChar || r.Type == filewatch.TypeBlock) && r.Major|r.Minor != 0
}

// systemDirs hold no hidden files on a system that was installed from packages.
var systemDirs = []string{"/bin", "/sbin", "/lib", "/lib64", "/usr/bin", "/usr/sbin", "/usr/lib", "/boot", "/dev"}

// oddName: only dots and blanks, blanks at either end, control or invisible
// characters, or hidden in a directory of the system.
func oddName(name string) bool {
	base := path.Base(name)
	switch {
	case strings.Trim(base, ". \t\u00a0") == "" && base != "/" && base != ".":
		return true
	case strings.TrimSpace(base) != base:
		return true
	case strings.ContainsFunc(base, func(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) }):
		return true
	case !strings.HasPrefix(base, "."):
		return false
	}
	return slices.Contains(systemDirs, path.Dir(name)) || under(name, "/dev")
}

// dataDirs hold data, never programs.
var dataDirs = []string{"/tmp", "/var/tmp", "/dev", "/run", "/var/run", "/var/log", "/var/spool", "/var/cache", "/var/mail",
	"/boot", "/usr/include", "/usr/share/doc", "/usr/share/man", "/usr/share/locale", "/usr/share/fonts"}

func noProgramsIn(name string) bool {
	return slices.ContainsFunc(dataDirs, func(dir string) bool { return under(name, dir) })
}

func under(name, dir string) bool {
	return strings.HasPrefix(name, dir) && len(name) > len(dir) && name[len(dir)] == '/'
}
