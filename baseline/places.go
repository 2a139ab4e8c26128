package baseline

import (
	"fmt"
	"slices"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// places tells of volumes that lie elsewhere on their disks than in the baseline.
//
// Partition tables and LVM's metadata are read when a machine starts. Root in a
// running guest can let them name a clean copy of a volume, with its UUID, while the
// kernel goes on with what it has mounted. Which of the two is used cannot be told
// from the disk, so what was read may not be the machine's files. A volume that was
// only made longer keeps its place.
//
// It also notes the volumes that are not in the baseline; see unseen.
func (c *comparer) places(then, now filewatch.Machine) {
	for _, p := range now.Places {
		if len(then.Volumes) > 0 && !slices.Contains(then.Volumes, p.Volume) {
			c.came = append(c.came, p)
		}
	}
	for _, old := range then.Places {
		i := slices.IndexFunc(now.Places, func(p filewatch.Place) bool { return p.Volume == old.Volume })
		if i < 0 || extends(old.Runs, now.Places[i].Runs) {
			continue // one that is gone shows by its files
		}
		c.changes = append(c.changes, &Change{Path: "volume " + old.Volume, Kind: Unmeasured, Level: filewatch.Verify,
			Explanation: fmt.Sprintf("lies elsewhere on its disks (%s) than when the baseline was made (%s): a system that runs since before may use the old place",
				firstRun(now.Places[i].Runs), firstRun(old.Runs))})
	}
}

// unseen tells of volumes that are not in the baseline and of which the rules take
// nothing: those of others show by their files.
func (c *comparer) unseen() {
	for _, p := range c.came {
		if slices.ContainsFunc(c.left.new, func(r *Record) bool { return r.Volume == p.Volume }) {
			continue
		}
		c.changes = append(c.changes, &Change{Path: "volume " + p.Volume, Kind: Unmeasured, Level: filewatch.Verify,
			Explanation: fmt.Sprintf("was not there when the baseline was made (now %s), and the rules take nothing of it", firstRun(p.Runs))})
	}
}

// extends reports whether runs go on with what others are.
func extends(old, now []filewatch.Run) bool {
	for i, r := range old {
		last := i == len(old)-1
		if i >= len(now) || now[i].Offset != r.Offset || now[i].Length != r.Length && (!last || now[i].Length < r.Length) {
			return false
		}
	}
	return true
}

func firstRun(runs []filewatch.Run) string {
	if len(runs) == 0 {
		return "nowhere"
	}
	text := fmt.Sprintf("%d bytes from %d", runs[0].Length, runs[0].Offset)
	if len(runs) > 1 {
		text += fmt.Sprintf(" and %d more places", len(runs)-1)
	}
	return text
}
