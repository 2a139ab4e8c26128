package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume"
)

// image makes an ext4 image from files and returns it.
func image(t *testing.T, uuid string, size int64, files map[string]string) *os.File {
	t.Helper()
	tree := t.TempDir()
	for name, content := range files {
		path := filepath.Join(tree, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(t.TempDir(), "img")
	run(t, "truncate", "-s", fmt.Sprint(size), path)
	run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-U", uuid, "-d", tree, path)
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

// scanAll gives "path volume" of every object and the gaps.
func scanAll(t *testing.T, g *Guest) ([]string, []filewatch.Gap) {
	t.Helper()
	var mu sync.Mutex
	var got []string
	gaps, err := g.Scan(context.Background(), func(*filewatch.Object, []string) bool { return true },
		func(o *filewatch.Object, names []string, content io.Reader, damage error) error {
			mu.Lock()
			defer mu.Unlock()
			for _, name := range names {
				got = append(got, name+" "+o.Volume[:4])
			}
			if damage != nil || o.Type == filewatch.TypeFile && content == nil {
				t.Errorf("%q: content %v, damage %v", names, content, damage)
			}
			return nil
		})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(got)
	return got, gaps
}

const (
	rootID = "aaaa1111-0000-4000-8000-000000000001"
	dataID = "bbbb2222-0000-4000-8000-000000000002"
	sideID = "cccc3333-0000-4000-8000-000000000003"
)

// The guest's own fstab says where volumes are; one it does not mention keeps
// its own paths.
func TestVolumesAreWhereFstabPutsThem(t *testing.T) {
	root := image(t, rootID, 8<<20, map[string]string{
		"etc/fstab": "# comment\nUUID=" + rootID + " / ext4 defaults 0 1\n" +
			"UUID=" + strings.ToUpper(dataID) + "\t/srv/my\\040data ext4 defaults 0 2\n/dev/vdx none swap sw 0 0\nrubbish\n",
		"etc/machine-id": "0123456789abcdef0123456789abcdef\n",
		"srv/a":          "",
	})
	data := image(t, dataID, 4<<20, map[string]string{"d/x": "x"})
	side := image(t, sideID, 4<<20, map[string]string{"etc/fstab": "UUID=" + rootID + " /elsewhere ext4 defaults 0 1\n"})
	disk, err := volume.OpenAll([]volume.Source{{Name: "data", Disk: data, Size: 4 << 20}, {Name: "side", Disk: side, Size: 4 << 20}, {Name: "root", Disk: root, Size: 8 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	g, err := New(disk)
	if err != nil {
		t.Fatal(err)
	}
	got, gaps := scanAll(t, g)
	want := []string{"/ aaaa", "/ cccc", "/etc aaaa", "/etc cccc", "/etc/fstab aaaa", "/etc/fstab cccc", "/etc/machine-id aaaa",
		"/lost+found aaaa", "/lost+found cccc", "/srv aaaa", "/srv/a aaaa", "/srv/my data bbbb", "/srv/my data/d bbbb",
		"/srv/my data/d/x bbbb", "/srv/my data/lost+found bbbb"}
	if diff := cmp.Diff(want, got); diff != "" || len(gaps) != 0 {
		t.Errorf("%s\ngaps %v", diff, gaps)
	}
	m := g.Machine()
	if m.MachineID != "0123456789abcdef0123456789abcdef" || !slices.Equal(m.Volumes, []string{rootID, dataID, sideID}) {
		t.Errorf("machine %+v", m)
	}
}

func TestUnreadableVolumeIsAGap(t *testing.T) {
	root := image(t, rootID, 8<<20, map[string]string{"a": ""})
	junk := make([]byte, 1<<20)
	copy(junk, "LUKS\xba\xbe\x00\x02")
	disk, err := volume.OpenAll([]volume.Source{{Name: "root", Disk: root, Size: 8 << 20}, {Name: "luks", Disk: strings.NewReader(string(junk)), Size: 1 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	g, err := New(disk)
	if err != nil {
		t.Fatal(err)
	}
	if _, gaps := scanAll(t, g); len(gaps) != 1 || !strings.Contains(gaps[0].What, "LUKS") {
		t.Errorf("gaps %+v", gaps)
	}
}

func TestNoFileSystem(t *testing.T) {
	zeros := strings.Repeat("\x00", 1<<20)
	for content, why := range map[string]string{
		zeros: "no known file system",
		zeros[:4086] + "SWAPSPACE2" + zeros[4096:]: "nothing but swap space",
	} {
		disk, err := volume.Open(strings.NewReader(content), 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		if g, err := New(disk); !errors.Is(err, ErrNoFileSystem) || !strings.Contains(err.Error(), why) {
			t.Errorf("%v, %v; want %q", g, err, why)
		}
	}
}

// Directories that contain each other, and depth without end, end.
func TestNamesOfHostileDirectories(t *testing.T) {
	n := newNames(2, "/")
	add := func(parent, inode uint64, name string) {
		t.Helper()
		if err := n.add(filewatch.Name{Parent: parent, Inode: inode, Name: []byte(name)}); err != nil {
			t.Fatal(err)
		}
	}
	add(2, 10, "a")
	add(10, 11, "b")
	add(11, 12, "f")
	add(2, 12, "g")
	add(21, 20, "x") // 20 and 21 are in each other
	add(20, 21, "y")
	add(21, 22, "z")
	for i := uint64(100); i < 100+2*maxDepth; i++ {
		add(i, i+1, "d")
	}
	add(2, 100, "deep")
	add(99999, 30, "nowhere")
	n.sort()
	for inode, want := range map[uint64][]string{2: {"/"}, 12: {"/a/b/f", "/g"}, 22: nil, 30: nil, 55: nil} {
		if diff := cmp.Diff(want, n.of(inode)); diff != "" {
			t.Errorf("inode %d: %s", inode, diff)
		}
	}
	if got := n.of(100 + 2*maxDepth); got != nil {
		t.Errorf("too deep: %d bytes", len(got[0]))
	}
	if got := n.of(105); len(got) != 1 || got[0] != "/deep/d/d/d/d/d" {
		t.Errorf("got %q", got)
	}
	if err := n.add(filewatch.Name{Parent: 1 << 50, Inode: 1, Name: []byte("x")}); !errors.Is(err, filewatch.ErrCorrupt) {
		t.Errorf("huge inode: %v", err)
	}
}

func FuzzFstab(f *testing.F) {
	f.Add([]byte("UUID=x / ext4 defaults 0 1\nLABEL=\"a b\" /x\\040y ext4\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, e := range parseFstab(text) {
			if !strings.HasPrefix(e.point, "/") {
				t.Fatalf("mount point %q", e.point)
			}
			e.names(&volume.Volume{UUID: "x", Partition: 1})
		}
	})
}
