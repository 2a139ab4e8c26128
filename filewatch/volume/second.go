package volume

import (
	"fmt"
	"strings"
)

// behind is where the last of the signatures lies that are looked for beside a file
// system that is read.
const behind = 72 << 10

// seconds are the errors of volumes that are read and have another family's superblock
// as well: they leave each other's places alone, so both can be mounted, and a guest can
// use the one and show the other. libblkid calls such a volume ambivalent and gives it
// no UUID, so it is no machine's ordinary remnant.
func seconds(volumes []*Volume) (damage []error) {
	for _, v := range volumes {
		if v.reader == nil || v.NotMeasured != "" {
			continue
		}
		head, err := headOf(v.device, min(behind, v.Size))
		if err != nil {
			damage = append(damage, fmt.Errorf("%s: %w", v.place(), err))
			continue
		}
		if other := second(v.Type, head); other != "" {
			damage = append(damage, fmt.Errorf("%s has a superblock of %s too: which of them the guest mounts cannot be told", v.place(), other))
		}
	}
	return damage
}

// second is the other file system that a device which begins so, and is read as kind,
// may be mounted as, "" for none. Magic numbers of two bytes are met by chance.
func second(kind string, head []byte) string {
	for _, s := range signatures {
		if len(s.magic) >= 4 && strings.HasPrefix(s.reason, "no reader") && hasAt(head, s.off, s.magic) {
			return s.kind
		}
	}
	if kind != "vfat" && mountsAsFAT(head) {
		return "vfat"
	}
	return ""
}
