package xfs_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
)

// makeImage makes a file system of the tree with mkfs.xfs and a prototype file,
// which knows neither times, hard links nor attributes. Small sizes need the
// environment of the tool's own tests.
func makeImage(t testing.TB, tree volumetest.Tree, size string, args ...string) string {
	t.Helper()
	src, img := volumetest.Dir(t), filepath.Join(volumetest.Dir(t), "img")
	tree.Write(t, src)
	proto := filepath.Join(volumetest.Dir(t), "proto")
	if err := os.WriteFile(proto, []byte("none\n0 0\nd--755 0 0\n"+protoDir(tree, src, "")+"$\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for k, v := range map[string]string{"TEST_DIR": "1", "TEST_DEV": "1", "QA_CHECK_FS": "1"} {
		t.(interface{ Setenv(string, string) }).Setenv(k, v)
	}
	volumetest.Tool(t, "mkfs.xfs", append(append([]string{"-q", "-f", "-m", "uuid=6f1c3a2e-1111-4111-8111-000000000001", "-L", "label", "-p", proto, "-d", "file=1,size=" + size}, args...), img)...)
	return img
}

// protoDir is the part of a prototype file for one directory: name, mode,
// owner, group, then what the type needs.
func protoDir(tree volumetest.Tree, src, dir string) string {
	var b strings.Builder
	for _, e := range tree {
		if parent := filepath.Dir(e.Path); parent != dir && (dir != "" || parent != ".") {
			continue
		}
		u, g := "-", "-"
		if e.Mode&0o4000 != 0 {
			u = "u"
		}
		if e.Mode&0o2000 != 0 {
			g = "g"
		}
		line := func(kind, rest string) {
			fmt.Fprintf(&b, "%s %s%s%s%03o %d %d %s\n", filepath.Base(e.Path), kind, u, g, e.Mode&0o777, e.UID, e.GID, rest)
		}
		switch e.Type {
		case filewatch.TypeDir:
			line("d", "")
			b.WriteString(protoDir(tree, src, e.Path) + "$\n")
		case filewatch.TypeFile:
			line("-", filepath.Join(src, e.Path))
		case filewatch.TypeSymlink:
			line("l", e.Link)
		case filewatch.TypeChar:
			line("c", fmt.Sprintf("%d %d", e.Major, e.Minor))
		case filewatch.TypeBlock:
			line("b", fmt.Sprintf("%d %d", e.Major, e.Minor))
		case filewatch.TypeFIFO:
			line("p", "")
		}
	}
	return b.String()
}

// protoTree is what of the common tree a prototype file can say. Long links are
// left out: mkfs.xfs 6.1 makes them without the header that the kernel demands. Holes
// begin and end with blocks of the largest size: mkfs.xfs 6.13 puts what follows a hole
// at the beginning of its block, and the kernel reads that as it stands there.
func protoTree() volumetest.Tree {
	var out volumetest.Tree
	for _, e := range volumetest.Unix() {
		if e.Same != "" || strings.ContainsAny(e.Path, " \n\t") || !utf8.ValidString(e.Path) || e.Mode&0o1000 != 0 || e.Major > 255 || len(e.Link) > 300 {
			continue
		}
		if e.HoleAt > 0 {
			e.HoleAt, e.Content = 65536, bytes.Repeat(e.Content, 1+65536/len(e.Content))
		}
		out = append(out, e)
	}
	return out
}

func TestConformance(t *testing.T) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			tree := protoTree()
			vol := volumetest.One(t, makeImage(t, tree, v.size, v.args...))
			if vol.Type != "xfs" || vol.UUID != "6f1c3a2e-1111-4111-8111-000000000001" || vol.Label != "label" {
				t.Errorf("type %q, UUID %q, label %q", vol.Type, vol.UUID, vol.Label)
			}
			volumetest.Check(t, vol, tree, volumetest.Features{NoTimes: true})
		})
	}
}

// Images copied in the middle of writes read as the kernel read them after its
// own recovery of the same copy.
func TestLogReplay(t *testing.T) {
	for _, name := range []string{"v5", "small-blocks", "old-features", "first-records", "v4"} {
		t.Run(name, func(t *testing.T) {
			v := volumetest.One(t, volumetest.Unpack(t, "testdata/"+name+".img.zst"))
			if !strings.Contains(v.Replayed, "transactions") {
				t.Fatalf("replayed %q: the image has nothing to replay", v.Replayed)
			}
			volumetest.CheckLines(t, v, "testdata/"+name+".txt")
		})
	}
}

// Without its log nothing can be said of a volume: one on another device.
func TestRefusesLogs(t *testing.T) {
	log := filepath.Join(volumetest.Dir(t), "log")
	if err := os.WriteFile(log, make([]byte, 16<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	volumetest.Refused(t, makeImage(t, protoTree(), "64m", "-l", "logdev="+log+",size=16m"), "log is on another device")
}

// Trees of several levels, values and names beyond one block, shared, unwritten
// and sparse: as the kernel shows them.
func TestDeep(t *testing.T) {
	volumetest.CheckLines(t, volumetest.One(t, volumetest.Unpack(t, "testdata/deep.img.zst")), "testdata/deep.txt")
}

// Version 5 has checksums on all metadata; version 4 has none, and the log of an
// image copied in the middle of writes is as hostile as the rest.
func TestDamage(t *testing.T) {
	made := func(args ...string) func(t *testing.T) string {
		return func(t *testing.T) string { return makeImage(t, protoTree(), "32m", args...) }
	}
	dirty := func(name string) func(t *testing.T) string {
		return func(t *testing.T) string { return volumetest.Unpack(t, "testdata/"+name+".img.zst") }
	}
	flavours := []struct {
		name    string
		image   func(t *testing.T) string
		covered volumetest.Coverage
	}{
		{"v5", made("-b", "size=1024"), volumetest.Checksummed},
		{"v5-under-checksums", made("-b", "size=1024", "-i", "nrext64=1"), volumetest.Resealed},
		{"v4", made("-b", "size=1024", "-m", "crc=0"), volumetest.NoChecksums},
		{"log", dirty("v5"), volumetest.NoChecksums},
		{"log-v4", dirty("v4"), volumetest.NoChecksums},
		{"log-under-checksums", dirty("small-blocks"), volumetest.Resealed},
	}
	for _, f := range flavours {
		t.Run(f.name, func(t *testing.T) {
			b, err := os.ReadFile(f.image(t))
			if err != nil {
				t.Fatal(err)
			}
			volumetest.Damage(t, bytes.NewReader(b), int64(len(b)), volumetest.Variants(len(flavours)), f.covered)
		})
	}
}

// FuzzOpen starts from the metadata of version 4, which has no checksums.
func FuzzOpen(f *testing.F) {
	img, err := os.ReadFile(makeImage(f, protoTree().Small(), "16m", "-b", "size=1024", "-m", "crc=0"))
	if err != nil {
		f.Fatal(err)
	}
	volumetest.Fuzz(f, img)
}
