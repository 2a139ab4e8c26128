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
	// texts are the newest metadata of each group, by name and UUID: two groups can
	// have one name.
	texts map[string]groupText
}

type groupText struct {
	lvm.Identity
	text string
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
	if g.disks[p.UUID] != nil {
		v.Type, v.NotMeasured = name, "has the UUID of another physical volume: which of them the guest uses cannot be told"
		return false
	}
	g.disks[p.UUID], g.regions[p.UUID] = v.device, v
	if p.Text == "" {
		return true
	}
	id, err := lvm.Identify(p.Text)
	if err != nil {
		v.Type, v.NotMeasured, v.Cause = name, err.Error(), err
		return false
	}
	group := id.Name + "\x00" + id.UUID
	old, ok := g.texts[group]
	if ok && old.Sequence == id.Sequence && !lvm.Same(old.text, p.Text) {
		v.Type, v.NotMeasured = name, "says otherwise of its group than another physical volume: which of them the guest goes by cannot be told"
		return false
	}
	if !ok || old.Sequence < id.Sequence {
		g.texts[group] = groupText{id, p.Text}
	}
	return true
}

// volumes lists the logical volumes of all groups, and the physical volumes that
// are in none of them or in one without volumes.
func (g *lvmGroups) volumes() ([]*Volume, []error) {
	var out []*Volume
	var damage []error
	empty := map[string]bool{}
	for _, key := range slices.Sorted(maps.Keys(g.texts)) {
		found, err := lvm.Group(g.texts[key].text, g.disks)
		if err != nil {
			damage = append(damage, fmt.Errorf("volume group %s: %w", g.texts[key].Name, err))
		}
		empty[key] = len(found) == 0
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
			reason = fmt.Sprintf("physical volume of volume group %s, which has no volumes", g.texts[group].Name)
		}
		v := g.regions[uuid]
		v.Type, v.NotMeasured = "LVM2_member", reason
		out = append(out, v)
	}
	return out, damage
}

// group is the key of the volume group whose metadata names a physical volume, ""
// for none.
func (g *lvmGroups) group(uuid string) string {
	for _, key := range slices.Sorted(maps.Keys(g.texts)) {
		if strings.Contains(strings.ReplaceAll(g.texts[key].text, "-", ""), `"`+uuid+`"`) {
			return key
		}
	}
	return ""
}
