// Package guest puts the volumes of a machine's disks together as the machine's
// own /etc/fstab does, and visits every object under its path in the guest.
//
// Objects on a volume that fstab does not mount have their path within that
// volume. What no reader can read is a gap, by name. The fstab is a file of the
// guest: it decides what things are called, never whether they are looked at.
package guest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"slices"
	"strings"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume"
	"github.com/plumbline-sec/plumbline/internal/sorted"
)

// ErrNoFileSystem: nothing on the disk can be read.
var ErrNoFileSystem = errors.New("no file system that can be read")

// Guest is a machine's volumes with their mount points.
type Guest struct {
	// Mounts are the volumes that can be read, in the order of their mount
	// points.
	Mounts []Mount
	// Workers is how many contents are read at once; default: one per core, at
	// least two and at most four.
	Workers int
	// Remember is a directory in which scans keep what [Guest.Follow] needs later,
	// "" for none; see Memory.
	Remember sorted.Dir
	memory   *Memory
	// untouched is what of the volumes reads as before; see GoOn.
	untouched map[string]*untouched
	machine   filewatch.Machine
	gaps      []filewatch.Gap
}

// Mount is one volume and where the guest has it.
type Mount struct {
	Volume *volume.Volume
	// Point is the mount point, "/" for the root and for a volume that fstab
	// does not mount.
	Point string
	// InFstab says that the guest's fstab says so.
	InFstab bool
}

// New finds the mount points. It fails when no volume can be read.
func New(d *volume.Disk) (*Guest, error) {
	g := &Guest{Workers: min(4, max(2, runtime.GOMAXPROCS(0)))}
	var readable []*volume.Volume
	var reasons []string
	nothing := "the disk is empty"
	for _, v := range d.Volumes {
		g.machine.Volumes = append(g.machine.Volumes, v.ID())
		switch {
		case v.NotMeasured == "":
			readable = append(readable, v)
			g.machine.Places = append(g.machine.Places, filewatch.Place{Volume: v.ID(), Runs: v.Runs()})
		case v.Type == "swap":
			// Swap space holds no files.
			nothing = "nothing but swap space"
		default:
			g.gaps = append(g.gaps, filewatch.Gap{Volume: v.ID(), What: describe(v), Reason: v.NotMeasured})
			reasons = append(reasons, describe(v)+": "+v.NotMeasured)
		}
	}
	slices.Sort(g.machine.Volumes)
	slices.SortStableFunc(g.machine.Places, func(a, b filewatch.Place) int { return strings.Compare(a.Volume, b.Volume) })
	for _, err := range d.Damage {
		g.gaps = append(g.gaps, filewatch.Gap{What: "the disk as a whole", Reason: err.Error()})
		reasons = append(reasons, err.Error())
	}
	if len(readable) == 0 {
		return nil, fmt.Errorf("%w (%s)", ErrNoFileSystem, cmp.Or(strings.Join(reasons, "; "), nothing))
	}
	g.mount(readable)
	return g, nil
}

func describe(v *volume.Volume) string {
	name := "disk"
	switch {
	case v.Partition > 0:
		name = fmt.Sprintf("partition %d", v.Partition)
	case v.Name != "":
		name = "volume " + v.Name
	}
	return name + " (" + cmp.Or(v.Type, "unknown content") + ")"
}

// mount reads the fstab of the root volume and places every volume.
func (g *Guest) mount(readable []*volume.Volume) {
	root, table := findRoot(readable)
	for _, v := range readable {
		m := Mount{Volume: v, Point: "/"}
		if i := slices.IndexFunc(table, func(e fstabEntry) bool { return e.names(v) }); i >= 0 {
			m.Point, m.InFstab = table[i].point, true
		} else if v == root {
			m.InFstab = true
		}
		g.Mounts = append(g.Mounts, m)
	}
	slices.SortStableFunc(g.Mounts, func(a, b Mount) int { return strings.Compare(a.Point, b.Point) })
	if root != nil {
		text, err := readFile(root, "etc/machine-id", 64)
		if err == nil {
			g.machine.MachineID = strings.TrimSpace(string(text))
		}
	}
}

// findRoot is the volume whose own fstab mounts it on "/"; failing that, the
// only one that has an fstab.
func findRoot(readable []*volume.Volume) (*volume.Volume, []fstabEntry) {
	var with []*volume.Volume
	var tables [][]fstabEntry
	for _, v := range readable {
		text, err := readFile(v, "etc/fstab", maxFstab)
		if err != nil {
			continue
		}
		table := parseFstab(text)
		with, tables = append(with, v), append(tables, table)
		for _, e := range table {
			if e.point == "/" && e.names(v) {
				return v, table
			}
		}
	}
	if len(with) == 1 {
		return with[0], tables[0]
	}
	return nil, nil
}

// readFile reads a small file of a volume.
func readFile(v *volume.Volume, name string, most int64) ([]byte, error) {
	f, err := v.FS().Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, fs.ErrInvalid)
	}
	return io.ReadAll(io.LimitReader(f, most))
}

// Machine says whose files they are.
func (g *Guest) Machine() filewatch.Machine { return g.machine }

// Memory is what the last scan left behind, nil where it was not asked to.
func (g *Guest) Memory() *Memory { return g.memory }

// Scan visits every object once; see baseline.Source.
func (g *Guest) Scan(ctx context.Context, want func(*filewatch.Object, []string) bool,
	visit func(*filewatch.Object, []string, io.Reader, error) error) ([]filewatch.Gap, error) {
	return g.each(ctx, func(s *scan) { s.want, s.visit = want, visit })
}

// each scans every volume; prepare fills in what is asked and told.
func (g *Guest) each(ctx context.Context, prepare func(*scan)) ([]filewatch.Gap, error) {
	gaps := slices.Clone(g.gaps)
	if g.Remember != "" {
		g.memory = &Memory{dir: g.Remember}
	}
	for _, m := range g.Mounts {
		s := &scan{mount: m, dir: g.Remember}
		prepare(s)
		if g.Remember != "" {
			s.memory = newVolumeMemory(m)
			g.memory.volumes = append(g.memory.volumes, s.memory)
		}
		if err := s.run(ctx, g.Workers); err != nil {
			return nil, fmt.Errorf("%s: %w", describe(m.Volume), err)
		}
		gaps = append(gaps, s.gaps...)
	}
	return gaps, nil
}
