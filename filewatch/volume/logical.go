package volume

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/plumbline-sec/plumbline/filewatch/volume/lvm"
	"github.com/plumbline-sec/plumbline/filewatch/volume/span"
)

// lvmGroups collects physical volumes while disks are listed.
type lvmGroups struct {
	disks map[string]io.ReaderAt
	// regions are where the physical volumes lie.
	regions map[string]*Volume
	// texts are the newest metadata of each group.
	texts map[string]groupText
}

type groupText struct {
	text     string
	sequence int64
}

// take says whether the region was a physical volume; if so it is listed by way
// of its logical volumes. One whose metadata is damaged is listed itself.
func (g *lvmGroups) take(v *Volume) bool {
	name, _, _, err := kind(v.device, v.Size)
	if err != nil || name != "LVM2_member" {
		return false
	}
	p, err := lvm.ReadPhysical(v.device, v.Size)
	if err != nil {
		v.Type, v.NotMeasured, v.Cause = name, err.Error(), err
		return false
	}
	if g.disks == nil {
		g.disks, g.regions, g.texts = map[string]io.ReaderAt{}, map[string]*Volume{}, map[string]groupText{}
	}
	g.disks[p.UUID], g.regions[p.UUID] = v.device, v
	if p.Text == "" {
		return true
	}
	group, sequence, err := lvm.Name(p.Text)
	if err != nil {
		v.Type, v.NotMeasured, v.Cause = name, err.Error(), err
		return false
	}
	if old, ok := g.texts[group]; !ok || old.sequence < sequence {
		g.texts[group] = groupText{p.Text, sequence}
	}
	return true
}

// volumes lists the logical volumes of all groups, and the physical volumes that
// are in none of them or in one without volumes.
func (g *lvmGroups) volumes() ([]*Volume, []error) {
	var out []*Volume
	var damage []error
	empty := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(g.texts)) {
		found, err := lvm.Group(g.texts[name].text, g.disks)
		if err != nil {
			damage = append(damage, fmt.Errorf("volume group %s: %w", name, err))
		}
		empty[name] = len(found) == 0
		for _, l := range found {
			v := &Volume{Name: l.Group + "/" + l.Name, Offset: -1, Size: l.Size, PartUUID: l.UUID, device: l.Device, NotMeasured: l.Reason}
			if v.device == nil {
				v.Type, v.device = "LVM2_volume", span.Section(nil, 0, 0)
			}
			out = append(out, v)
		}
	}
	for _, uuid := range slices.Sorted(maps.Keys(g.regions)) {
		group, reason := g.group(uuid), "physical volume of no volume group on these disks"
		if group != "" && !empty[group] {
			continue
		}
		if group != "" {
			reason = fmt.Sprintf("physical volume of volume group %s, which has no volumes", group)
		}
		v := g.regions[uuid]
		v.Type, v.NotMeasured = "LVM2_member", reason
		out = append(out, v)
	}
	return out, damage
}

// group is the volume group whose metadata names a physical volume, "" for none.
func (g *lvmGroups) group(uuid string) string {
	for _, name := range slices.Sorted(maps.Keys(g.texts)) {
		if strings.Contains(strings.ReplaceAll(g.texts[name].text, "-", ""), `"`+uuid+`"`) {
			return name
		}
	}
	return ""
}
