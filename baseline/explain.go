package baseline

import (
	"fmt"
	"strings"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// explain puts a change in words: what happened, then what is suspicious.
func explain(c *Change) string {
	var parts []string
	switch c.Kind {
	case Added:
		parts = append(parts, fmt.Sprintf("this %s is not in the baseline", noun(c.New)))
	case Removed:
		parts = append(parts, fmt.Sprintf("this %s of the baseline is gone", noun(c.Old)))
	case Changed:
		parts = append(parts, explainDeltas(c)...)
	}
	for _, p := range c.Suspicious {
		parts = append(parts, patternWords(p, c))
	}
	return strings.Join(parts, "; ")
}

func explainDeltas(c *Change) []string {
	var parts []string
	var rest []string
	replaced := c.Attributes.Has("inode") || c.Attributes.Has("generation") || c.Attributes.Has("volume")
	for _, d := range c.Attributes {
		switch d.Name {
		case "path":
			parts = append(parts, fmt.Sprintf("renamed from %v", d.Old))
		case "names":
			parts = append(parts, fmt.Sprintf("its names were %v", d.Old))
		case "type":
			parts = append(parts, fmt.Sprintf("was a %v, is a %v", d.Old, d.New))
		case "blake3":
			parts = append(parts, "content changed")
		case "sha256":
			if !c.Attributes.Has("blake3") {
				parts = append(parts, "content changed")
			}
		case "growing":
			parts = append(parts, "what was in it is no longer at its beginning")
		case "mode", "uid", "gid", "link", "rdev":
			parts = append(parts, fmt.Sprintf("%s was %v, is %v", d.Name, d.Old, d.New))
		case "inode", "generation", "volume":
		default:
			rest = append(rest, d.Name)
		}
	}
	if replaced {
		parts = append(parts, "replaced by another object of the same name")
	}
	if len(rest) > 0 {
		parts = append(parts, strings.Join(rest, ", ")+" changed")
	}
	return parts
}

func patternWords(p Pattern, c *Change) string {
	switch p {
	case TimesPutBack:
		if c.Old.Ctime.Equal(c.New.Ctime) && !c.New.Ctime.IsZero() {
			return "SUSPICIOUS: neither its modification nor its change time shows it, so it was not written through the guest's file system or the clock was turned back"
		}
		return "SUSPICIOUS: its modification time was put back"
	case SetuidAdded:
		var who []string
		if c.New.Mode&filewatch.ModeSetuid != 0 {
			who = append(who, fmt.Sprintf("user %d", c.New.UID))
		}
		if c.New.Mode&filewatch.ModeSetgid != 0 {
			who = append(who, fmt.Sprintf("group %d", c.New.GID))
		}
		return "SUSPICIOUS: whoever starts it becomes " + strings.Join(who, " and ")
	case CapabilityAdded:
		return "SUSPICIOUS: it gives capabilities to whoever starts it"
	case OddName:
		return "SUSPICIOUS: its name is made not to be seen"
	case LogTruncated:
		return "SUSPICIOUS: a log became shorter"
	case DeviceOutOfPlace:
		return "SUSPICIOUS: a device node outside /dev"
	case ExecutableOutOfPlace:
		return "SUSPICIOUS: an executable where none belongs"
	}
	return "SUSPICIOUS: " + string(p)
}

func noun(r *Record) string {
	switch r.Type {
	case filewatch.TypeDir:
		return "directory"
	case filewatch.TypeSymlink:
		return "symbolic link"
	case filewatch.TypeChar, filewatch.TypeBlock:
		return "device node"
	case filewatch.TypeFIFO:
		return "FIFO"
	case filewatch.TypeSocket:
		return "socket"
	}
	if r.Executable() {
		return "executable"
	}
	return "file"
}
