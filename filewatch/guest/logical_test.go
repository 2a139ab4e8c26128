package guest

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/filewatch/volume"
	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
)

// The disk of lvm/testdata/make.sh, with the group "wide": two physical volumes of equal size.
const (
	physical0    = 2048 * 512
	physical1    = 116736 * 512
	physicalSize = 114688 * 512
)

// group is a disk whose logical volumes tests fill.
type group struct {
	disk    []byte
	volumes map[string]*volume.Volume
	// cuts are for openGuest: with them each physical volume is a disk of its own.
	cuts []int
}

func openGroup(t *testing.T) *group {
	t.Helper()
	g := &group{disk: mustRead(t, volumetest.Unpack(t, "../volume/lvm/testdata/wide.img.zst")), volumes: map[string]*volume.Volume{}}
	d, err := volume.Open(bytes.NewReader(g.disk), int64(len(g.disk)))
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range d.Volumes {
		g.volumes[v.Name] = v
	}
	return g
}

// with is the disk with an image in one of the volumes.
func (g *group) with(t *testing.T, name string, image []byte) []byte {
	t.Helper()
	out, v := bytes.Clone(g.disk), g.volumes["wide/"+name]
	if v == nil || v.Size < int64(len(image)) {
		t.Fatalf("volume %+v has no room for %d bytes", v, len(image))
	}
	for _, e := range v.DiskExtents(0, int64(len(image))) {
		copy(out[e.Physical:], image[e.Logical:e.Logical+e.Length])
	}
	if g.cuts != nil {
		out = bytes.Join([][]byte{out[physical0:][:physicalSize], out[physical1:][:physicalSize]}, nil)
	}
	return out
}

// File systems in logical volumes that lie on two physical volumes, in pieces and in
// stripes, both on one disk and each on its own: the owners of what changed on the
// disks are found through the mapping.
func TestFollowingLogicalVolumes(t *testing.T) {
	for name, cuts := range map[string][]int{"one disk": nil, "two disks": {physicalSize}} {
		t.Run(name, func(t *testing.T) {
			g := openGroup(t)
			g.cuts = cuts
			t.Run("ext4 in two pieces", func(t *testing.T) {
				c := volumetest.NewChanges(t, "-t", "ext4", "-b", "1024")
				volumetest.Tool(t, "truncate", "-s", "40M", c.Image) // into the second piece
				volumetest.Tool(t, "resize2fs", c.Image)
				s := whole(t, g.with(t, "linear", mustRead(t, c.Image)), cuts...)
				for round := range 4 {
					c.Change(t)
					image := mustRead(t, c.Image)
					overwrite(t, image, c.Random)
					s = follows(t, s, whole(t, g.with(t, "linear", image), cuts...), []int{1024, 65536}[round%2])
				}
			})
			t.Run("XFS in stripes", func(t *testing.T) {
				var last *seer
				volumetest.Pictures(t, "../volume/xfs/testdata/small-blocks.series.zst", func(round int, image []byte) {
					if round > 4 {
						return
					}
					now := whole(t, g.with(t, "striped", image), cuts...)
					if last != nil {
						follows(t, last, now, []int{1024, 65536}[round%2])
					}
					last = now
				})
			})
		})
	}
}

// A group whose metadata put a volume together of other places, in which an altered
// copy has lain since before the last scan: no byte of it was written, and all of it
// is another.
func TestFollowingNoticesRemappedVolume(t *testing.T) {
	g := openGroup(t)
	c := volumetest.NewChanges(t, "-t", "ext4")
	image := mustRead(t, c.Image)
	altered := bytes.Clone(image)
	overwrite(t, altered, c.Random)
	s := whole(t, g.with(t, "linear", append(image, altered...)))
	remapped := bytes.Clone(s.image)
	for _, at := range []int{physical0, physical1} {
		remap(t, remapped[at:], `"pv0", 24`, `"pv1", 24`)
	}
	want := whole(t, remapped)
	if cmp.Equal(s.now, want.now) {
		t.Fatal("the volume is not another")
	}
	next, unfollowed := s.next(t, remapped, 4096)
	if len(unfollowed) != 1 || !strings.Contains(unfollowed[0].Reason, "the last scan did not have it here") {
		t.Errorf("scanned whole: %v", unfollowed)
	}
	if d := cmp.Diff(want.now, next.now); d != "" {
		t.Errorf("whole scan against incremental:\n%s", d)
	}
}

// remap exchanges two texts of equal length in the metadata of a physical volume:
// struct mda_header at 4096 (checksum, 40: place, size and checksum of the text).
func remap(t *testing.T, physical []byte, a, b string) {
	t.Helper()
	le := binary.LittleEndian
	sum := func(b []byte) uint32 { return ^crc32.Update(^uint32(0xf597a6cf), crc32.IEEETable, b) }
	area := physical[4096:]
	text := area[le.Uint64(area[40:]):][:le.Uint64(area[48:])]
	changed := strings.NewReplacer(a, b, b, a).Replace(string(text))
	if changed == string(text) {
		t.Fatalf("metadata have neither %s nor %s", a, b)
	}
	copy(text, changed)
	le.PutUint32(area[56:], sum(text))
	le.PutUint32(area, sum(area[4:512]))
}
