package guest

import (
	"fmt"
	"path"
	"strings"

	"github.com/plumbline-sec/plumbline/filewatch/volume"
)

const maxFstab = 1 << 20

// fstabEntry is one line of fstab(5): what is mounted where.
type fstabEntry struct{ spec, point string }

// parseFstab reads what it can; a line that makes no sense is passed over, as
// mount(8) does.
func parseFstab(text []byte) []fstabEntry {
	var out []fstabEntry
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 3 || strings.HasPrefix(fields[0], "#") {
			continue
		}
		point := unescape(fields[1])
		if !strings.HasPrefix(point, "/") || len(point) > maxPath {
			continue // swap, none
		}
		out = append(out, fstabEntry{unescape(fields[0]), path.Clean(point)})
	}
	return out
}

// unescape undoes fstab's \040 and its like.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// names says that the entry means the volume. Device names are matched by what
// of them does not depend on the order in which the guest finds its disks: the
// partition number of the first disk, a logical volume's name.
func (e fstabEntry) names(v *volume.Volume) bool {
	key, value, tagged := strings.Cut(e.spec, "=")
	value = strings.Trim(value, `"'`)
	if !tagged {
		if dir, name, ok := strings.Cut(strings.TrimPrefix(e.spec, "/dev/disk/by-"), "/"); ok && strings.HasPrefix(e.spec, "/dev/disk/by-") {
			key, value, tagged = dir, name, true
		}
	}
	if tagged {
		switch strings.ToLower(key) {
		case "uuid":
			return v.UUID != "" && strings.EqualFold(value, v.UUID)
		case "label":
			return v.Label != "" && value == v.Label
		case "partuuid":
			return v.PartUUID != "" && strings.EqualFold(value, v.PartUUID)
		case "partlabel":
			return v.PartLabel != "" && value == v.PartLabel
		}
		return false
	}
	return e.device(v)
}

func (e fstabEntry) device(v *volume.Volume) bool {
	dev, ok := strings.CutPrefix(e.spec, "/dev/")
	if !ok {
		return false
	}
	if group, lv, ok := strings.Cut(v.Name, "/"); ok && v.Partition == 0 {
		mapped := strings.ReplaceAll(group, "-", "--") + "-" + strings.ReplaceAll(lv, "-", "--")
		return dev == v.Name || dev == "mapper/"+mapped
	}
	for _, disk := range []string{"sda", "vda", "xvda", "hda", "nvme0n1p", "mmcblk0p"} {
		if v.Partition > 0 && dev == fmt.Sprintf("%s%d", disk, v.Partition) {
			return true
		}
	}
	return v.Partition == 0 && v.Name == "" && v.Index == 0 &&
		(dev == "sda" || dev == "vda" || dev == "xvda" || dev == "hda" || dev == "nvme0n1" || dev == "mmcblk0")
}
