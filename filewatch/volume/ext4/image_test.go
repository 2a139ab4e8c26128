package ext4_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
)

// extFeatures ignores what mke2fs makes itself.
var extFeatures = volumetest.Features{Ignore: []string{"lost+found"}}

// makeImage makes a file system of the tree with mke2fs and debugfs. Everything
// an ordinary user cannot give a file is set with debugfs, so that the image
// does not depend on who makes it.
func makeImage(t testing.TB, tree volumetest.Tree, size string, args ...string) string {
	t.Helper()
	src, img := volumetest.Dir(t), filepath.Join(volumetest.Dir(t), "img")
	tree.Write(t, src)
	args = append([]string{"-q", "-F", "-E", "root_owner=0:0,hash_seed=6f1c3a2e-0000-4000-8000-000000000001", "-U", "6f1c3a2e-1111-4111-8111-000000000001", "-d", src}, args...)
	volumetest.Tool(t, "mke2fs", append(args, img, size)...)
	debugfs(t, img, script(t, tree)...)
	return img
}

// debugfs runs commands that write; it says on standard error what went wrong.
func debugfs(t testing.TB, img string, commands ...string) {
	t.Helper()
	file := filepath.Join(volumetest.Dir(t), "script")
	if err := os.WriteFile(file, []byte(strings.Join(commands, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out := volumetest.Tool(t, "debugfs", "-w", "-f", file, img)
	for line := range strings.Lines(out) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "debugfs") && !strings.HasPrefix(line, "Allocated") {
			t.Fatalf("debugfs: %s", line)
		}
	}
}

// script sets owners, modes, times, attributes and makes devices.
func script(t testing.TB, tree volumetest.Tree) []string {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	for i, e := range tree {
		if e.Same != "" || strings.ContainsAny(e.Path, "\n\t") || !utf8.ValidString(e.Path) {
			continue
		}
		p, kind := e.Path, uint32(0o100000)
		switch e.Type {
		case filewatch.TypeDir:
			kind = 0o040000
		case filewatch.TypeSymlink:
			kind = 0o120000
		case filewatch.TypeChar:
			kind = 0o020000
			add("mknod %s c %d %d", p, e.Major, e.Minor)
		case filewatch.TypeBlock:
			kind = 0o060000
			add("mknod %s b %d %d", p, e.Major, e.Minor)
		case filewatch.TypeFIFO:
			kind = 0o010000
			add("mknod %s p", p)
		}
		add("sif \"%s\" mode 0%o", p, kind|uint32(e.Mode))
		add("sif \"%s\" uid %d", p, e.UID)
		add("sif \"%s\" gid %d", p, e.GID)
		if kind&0o170000 == 0o020000 || kind == 0o060000 || kind == 0o010000 {
			add("sif \"%s\" mtime @1709210096", p)
			add("sif \"%s\" links_count 1", p)
		}
		for name, value := range e.Xattrs {
			file := filepath.Join(t.TempDir(), fmt.Sprint(i))
			if err := os.WriteFile(file, []byte(value), 0o600); err != nil {
				t.Fatal(err)
			}
			add("ea_set -f %s \"%s\" %s", file, p, name)
		}
	}
	for _, e := range tree { // what debugfs put into a directory changed its time
		if e.Type == filewatch.TypeDir {
			add("sif %s mtime @1709210096", e.Path)
		}
	}
	return out
}
