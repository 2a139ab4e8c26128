package guest

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
)

// fatChanges is a FAT image that mtools change at random.
type fatChanges struct {
	t      *testing.T
	image  string
	local  string
	random *rand.Rand
	bytes  *rand.ChaCha8
}

func newFATChanges(t *testing.T, options ...string) *fatChanges {
	seed := rand.Uint64()
	t.Logf("seed of the changes: %d", seed)
	dir := t.TempDir()
	c := &fatChanges{t: t, image: filepath.Join(dir, "image"), local: filepath.Join(dir, "local"),
		random: rand.New(rand.NewPCG(seed, 0)), bytes: rand.NewChaCha8([32]byte{byte(seed)})}
	volumetest.Tool(t, "mkfs.vfat", append([]string{"-i", "1234ABCD", "-C"}, append(options[:len(options)-1:len(options)-1], c.image, options[len(options)-1])...)...)
	for d := range fatDirs {
		c.run("mmd", fmt.Sprintf("::/directory %d", d))
		for range 6 {
			c.write()
		}
	}
	return c
}

const fatDirs = 3

// run runs one of mtools; what cannot be done, because another change was there
// before, is left.
func (c *fatChanges) run(tool string, args ...string) {
	c.t.Helper()
	cmd := exec.CommandContext(c.t.Context(), tool, append([]string{"-i", c.image}, args...)...)
	cmd.Stdin = strings.NewReader("")
	if out, err := cmd.CombinedOutput(); err != nil && cmd.ProcessState == nil {
		c.t.Fatalf("%s: %v\n%s", tool, err, out)
	}
}

// path is in one of the directories or, of FAT32 a chain like others, the root.
func (c *fatChanges) path() string {
	dir := fmt.Sprintf("directory %d/", c.random.IntN(fatDirs+1))
	return "::/" + strings.TrimPrefix(dir, fmt.Sprintf("directory %d/", fatDirs)) + fmt.Sprintf("a file with a long name %d", c.random.IntN(12))
}

func (c *fatChanges) write() {
	content := make([]byte, c.random.IntN(30_000)>>c.random.IntN(8))
	c.bytes.Read(content)
	if err := os.WriteFile(c.local, content, 0o600); err != nil {
		c.t.Fatal(err)
	}
	c.run("mcopy", "-o", c.local, c.path())
}

func (c *fatChanges) change() {
	for range 1 + c.random.IntN(5) {
		switch c.random.IntN(7) {
		default:
			c.write()
		case 2:
			c.run("mdel", c.path())
		case 3:
			c.run("mren", c.path(), c.path()[2:])
		case 4:
			c.run("mattrib", "+r", c.path())
		case 5:
			c.run("mmd", fmt.Sprintf("::/directory %d/below%d", c.random.IntN(fatDirs), c.random.IntN(3)))
		case 6:
			c.run("mdeltree", fmt.Sprintf("::/directory %d/below%d", c.random.IntN(fatDirs), c.random.IntN(3)))
		}
	}
}

// FAT of all widths, changed at random and overwritten where the content lies: an
// incremental scan says what a whole one says, and reads no more than it must.
func TestFollowingFAT(t *testing.T) {
	for _, options := range [][]string{{"-F", "12", "2048"}, {"-F", "16", "16384"}, {"-F", "32", "-s", "1", "36864"}} {
		t.Run("fat"+options[1], func(t *testing.T) {
			c := newFATChanges(t, options...)
			s := whole(t, mustRead(t, c.image))
			for round := range 8 {
				c.change()
				image := mustRead(t, c.image)
				changed := whole(t, image)
				granularity := []int{512, 4096, 65536}[round%3]
				follows(t, s, changed, granularity)
				follows(t, changed, s, granularity)
				over := bytes.Clone(image)
				overwrite(t, over, c.random)
				overwritten := whole(t, over)
				if next := follows(t, changed, overwritten, 512); next.hashed != 1 {
					t.Errorf("round %d: one content was overwritten, %d were read", round, next.hashed)
				}
				s = follows(t, s, overwritten, granularity)
			}
		})
	}
}

// The root of FAT32 grows by a cluster with a new name in it, and nothing is written
// where it was before.
func TestFollowingGrowingRoot(t *testing.T) {
	c := newFATChanges(t, "-F", "32", "-s", "1", "36864")
	s := whole(t, mustRead(t, c.image))
	for i := range 12 {
		c.run("mmd", fmt.Sprintf("::/another directory %d", i))
		s = follows(t, s, whole(t, mustRead(t, c.image)), 512)
	}
}

// The chain of a file's clusters is in the table alone: one that leads elsewhere makes
// another content though neither the file's entry nor a byte of any content changed.
func TestFollowingNoticesRelinkedChain(t *testing.T) {
	c := newFATChanges(t, "-F", "16", "-s", "1", "16384")
	if err := os.WriteFile(c.local, bytes.Repeat([]byte("0123456789abcdef"), 256), 0o600); err != nil {
		t.Fatal(err)
	}
	c.run("mcopy", "-o", c.local, "::/chain")
	image := mustRead(t, c.image)
	s := whole(t, image)
	// The table is behind the reserved sectors (0x0E); entries have two bytes. A file
	// of eight clusters in a row: the third is left out and added behind the last.
	var first uint16
	g := openGuest(t, image)
	le := func(at int) uint16 { return uint16(image[at]) | uint16(image[at+1])<<8 }
	table := int(le(0x0E)) * 512
	err := g.Mounts[0].Volume.Objects(t.Context(), func(o *filewatch.Object, content filewatch.Content, _ error) error {
		if o.Size == 4096 && o.Type == filewatch.TypeFile {
			first = le(int(o.Inode)*32 + 0x1A)
		}
		return nil
	})
	if err != nil || first == 0 {
		t.Fatalf("no chain, %v", err)
	}
	cluster := make([]uint16, 8)
	for i, n := 0, first; i < 8; i++ {
		cluster[i] = n
		n = le(table + 2*int(n))
	}
	relinked := bytes.Clone(image)
	link := func(from, to uint16) {
		relinked[table+2*int(from)], relinked[table+2*int(from)+1] = byte(to), byte(to>>8)
	}
	link(cluster[1], cluster[3])
	link(cluster[7], cluster[2])
	link(cluster[2], 0xFFFF)
	want := whole(t, relinked)
	if next := follows(t, s, want, 512); next.hashed != 1 {
		t.Errorf("%d contents were read", next.hashed)
	}
}

// A volume with a directory that cannot be read, or that comes twice, is scanned
// whole, and said to be.
func TestFollowingWhatCannotBeFollowed(t *testing.T) {
	c := newFATChanges(t, "-F", "16", "16384")
	image := mustRead(t, c.image)
	var dirs []int64 // where the numbers of their first clusters are
	g := openGuest(t, image)
	err := g.Mounts[0].Volume.Objects(t.Context(), func(o *filewatch.Object, content filewatch.Content, _ error) error {
		if o.Type == filewatch.TypeDir && o.Inode > 1 {
			dirs = append(dirs, int64(o.Inode)*32+0x1A)
		}
		return nil
	})
	if err != nil || len(dirs) != fatDirs {
		t.Fatalf("%d directories, %v", len(dirs), err)
	}
	damaged, shared, changed := bytes.Clone(image), bytes.Clone(image), bytes.Clone(image)
	copy(damaged[dirs[0]:], "\xFE\x7F")
	copy(shared[dirs[1]:][:2], image[dirs[0]:])
	overwrite(t, changed, c.random)
	for _, step := range []struct {
		was, now []byte
		reason   string
	}{
		{image, damaged, "chain leads to cluster"},
		{damaged, changed, "chain leads to cluster"},
		{image, shared, "shares its clusters"},
		{shared, changed, "shares its clusters"},
	} {
		next, unfollowed := whole(t, step.was).next(t, step.now, 4096)
		if len(unfollowed) != 1 || !strings.Contains(unfollowed[0].Reason, step.reason) {
			t.Errorf("scanned whole: %v, want the reason %q", unfollowed, step.reason)
		}
		if d := cmp.Diff(whole(t, step.now).now, next.now); d != "" {
			t.Errorf("%s: whole scan against incremental:\n%s", step.reason, d)
		}
	}
}
