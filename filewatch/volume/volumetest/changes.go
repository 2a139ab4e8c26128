package volumetest

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Changes is an ext image that changes at random, by debugfs and so without a
// mount: files are written, removed, linked, truncated, given attributes; their
// blocks are used again by others; directories move with all below them.
type Changes struct {
	Image  string
	Random *rand.Rand

	dir    string
	random *rand.ChaCha8
	round  int
	links  int
}

// NewChanges makes an image of 24 MiB with 8 directories of 40 files, /d0/f0 to
// /d7/f39. options are mke2fs's.
func NewChanges(tb testing.TB, options ...string) *Changes {
	tb.Helper()
	seed := rand.Uint64()
	tb.Logf("seed of the changes: %d", seed)
	c := &Changes{Random: rand.New(rand.NewPCG(seed, 0)), random: rand.NewChaCha8([32]byte{byte(seed)}), dir: tb.TempDir()}
	c.Image = filepath.Join(c.dir, "image")
	if err := os.WriteFile(c.Image, make([]byte, 24<<20), 0o600); err != nil {
		tb.Fatal(err)
	}
	Tool(tb, "mke2fs", append(options, "-q", "-F", "-U", "11111111-2222-3333-4444-555555555555", c.Image)...)
	for i := range locals {
		c.renew(tb, i)
	}
	var first []string
	for d := range 8 {
		first = append(first, fmt.Sprintf("mkdir /d%d", d))
		for i := range 40 {
			first = append(first, fmt.Sprintf("write %s /d%d/f%d", c.local(i%locals), d, i))
		}
	}
	c.Debugfs(tb, first...)
	return c
}

// locals is how many contents there are to write.
const locals = 6

func (c *Changes) local(i int) string { return filepath.Join(c.dir, fmt.Sprintf("local%d", i)) }

// renew makes a new content to write.
func (c *Changes) renew(tb testing.TB, i int) {
	content := make([]byte, c.Random.IntN(70_000)>>c.Random.IntN(12))
	c.random.Read(content)
	if err := os.WriteFile(c.local(i), content, 0o600); err != nil {
		tb.Fatal(err)
	}
}

// Debugfs runs commands; one that fails is passed over.
func (c *Changes) Debugfs(tb testing.TB, commands ...string) {
	tb.Helper()
	cmd := exec.CommandContext(tb.Context(), "debugfs", "-w", "-f", "-", c.Image)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	cmd.Stdin = strings.NewReader(strings.Join(commands, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("debugfs: %v\n%s", err, out)
	}
}

// Change makes a few changes.
func (c *Changes) Change(tb testing.TB) {
	tb.Helper()
	c.renew(tb, c.Random.IntN(locals))
	c.round++
	var commands []string
	for range 4 + c.Random.IntN(12) {
		commands = append(commands, c.change()...)
	}
	c.Debugfs(tb, commands...)
}

// change is one change of any kind.
func (c *Changes) change() []string {
	r := c.Random
	file := func() string { return fmt.Sprintf("/d%d/f%d", r.IntN(8), r.IntN(40)) }
	f := file()
	switch r.IntN(12) {
	default:
		return []string{"rm " + f, "write " + c.local(r.IntN(locals)) + " " + f}
	case 3:
		return []string{"rm " + f}
	case 4: // ln leaves the count of links to who calls it, rm does not
		c.links++
		first := fmt.Sprintf("/d%d/link%d", r.IntN(8), c.links)
		return []string{"write " + c.local(r.IntN(locals)) + " " + first,
			fmt.Sprintf("ln %s /d%d/also%d", first, r.IntN(8), c.links), "set_inode_field " + first + " links_count 2"}
	case 5:
		return []string{fmt.Sprintf("rm /d%d/%s%d", r.IntN(8), []string{"link", "also"}[r.IntN(2)], 1+r.IntN(1+c.links))}
	case 6:
		return []string{fmt.Sprintf("symlink /d%d/sym%d-%d %s", r.IntN(8), c.round, r.IntN(9), strings.Repeat("x/", 1+r.IntN(90)))}
	case 7:
		return []string{fmt.Sprintf("ea_set %s user.k%d %s", f, r.IntN(3), strings.Repeat("v", 1+r.IntN(400)))}
	case 8:
		return []string{fmt.Sprintf("set_inode_field %s mode 010%04o", f, r.IntN(0o1000)), fmt.Sprintf("set_inode_field %s ctime @%d", f, 1e9+r.IntN(1e8))}
	case 9:
		from := r.IntN(8)
		return []string{fmt.Sprintf("ln /d%d /m%d", from, 100+r.IntN(900)), fmt.Sprintf("unlink /d%d", from), fmt.Sprintf("mkdir /d%d", from)}
	case 10:
		return []string{fmt.Sprintf("mkdir /d%d/sub%d", r.IntN(8), r.IntN(1000))}
	case 11:
		return []string{"truncate " + f, fmt.Sprintf("punch %s 1 2", f)}
	}
}
