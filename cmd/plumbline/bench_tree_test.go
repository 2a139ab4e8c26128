//go:build bench

package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// The corpora are kept in the user's cache directory, because making them takes
// minutes; the name has the recipe's version.
const corpusVersion = "bench-files-3"

// The tree is like Debian's: of the 7,470 regular files, 928 directories and
// 959 symbolic links in bookworm's packages of priority required, important and
// standard come the quantiles of sizes below, the files a directory has and the
// depth and length of paths. One file in 50 has a user attribute, one in 100 an
// ACL, one in 200 a second name: more than Debian's packages have, so that all
// of them are paid for.
const (
	benchFiles = 60_000
	benchDirs  = 7_500
	benchLinks = 7_700
)

var sizeQuantiles = []struct{ q, size float64 }{
	{0, 2}, {.1, 538}, {.2, 775}, {.3, 1209}, {.4, 1715}, {.5, 2300}, {.6, 3169}, {.7, 5429}, {.8, 13186},
	{.9, 35820}, {.95, 75850}, {.98, 156264}, {.99, 241534}, {.999, 1353368}, {1, 4523291},
}

func sizeAt(q float64) int {
	i := 1
	for sizeQuantiles[i].q < q {
		i++
	}
	a, b := sizeQuantiles[i-1], sizeQuantiles[i]
	return int(a.size * math.Pow(b.size/a.size, (q-a.q)/(b.q-a.q)))
}

// benchTree makes the tree and an ext4 image of it, once.
func benchTree(t *testing.T) (tree, image string) {
	dir := benchCache(t)
	tree, image = filepath.Join(dir, "tree"), filepath.Join(dir, "tree.img")
	if _, err := os.Stat(image); err == nil {
		return tree, image
	}
	fmt.Printf("making the tree of %d files: once\n", benchFiles)
	must(t, os.RemoveAll(tree))
	random := rand.NewChaCha8([32]byte{1})
	numbers := rand.New(random)
	blob := make([]byte, 16<<20)
	random.Read(blob)
	dirs := benchDirectories(t, tree, numbers)
	total := 0
	for i := range benchFiles {
		// The square makes few directories full and many nearly empty.
		where := dirs[int(float64(len(dirs))*math.Pow(numbers.Float64(), 2))]
		name := filepath.Join(where, fmt.Sprintf("file-%d.%c", i, 'a'+i%26))
		size := sizeAt((float64(i) + .5) / benchFiles)
		off := numbers.IntN(len(blob) - size)
		must(t, os.WriteFile(name, blob[off:off+size], 0o644))
		total += size
		benchAttributes(t, name, i)
	}
	for i := range benchLinks {
		must(t, os.Symlink(fmt.Sprintf("file-%d.so.1.%d", i, i%7), filepath.Join(dirs[numbers.IntN(len(dirs))], fmt.Sprintf("link-%d.so", i))))
	}
	fmt.Printf("%d MB in %d files\n", total/1_000_000, benchFiles)
	makeImage(t, tree, image, "4G", "-N", "120000")
	return tree, image
}

// benchDirectories makes directories to a depth of about six.
func benchDirectories(t *testing.T, tree string, numbers *rand.Rand) []string {
	t.Helper()
	var dirs []string
	for _, top := range []string{"etc", "usr/bin", "usr/lib/x86_64-linux-gnu", "usr/share/doc", "usr/share/locale", "var/lib/dpkg/info"} {
		dirs = append(dirs, filepath.Join(tree, top))
	}
	for i := len(dirs); i < benchDirs; i++ {
		parent := dirs[numbers.IntN(min(len(dirs), 1+i/3))]
		dirs = append(dirs, filepath.Join(parent, fmt.Sprintf("part%d", i)))
	}
	for _, d := range dirs {
		must(t, os.MkdirAll(d, 0o755))
	}
	return dirs
}

// benchAttributes gives some files what AIDE is asked to compare as well.
func benchAttributes(t *testing.T, name string, i int) {
	t.Helper()
	if i%50 == 0 {
		must(t, unix.Lsetxattr(name, "user.origin", fmt.Appendf(nil, "package-%d", i/5000), 0))
	}
	if i%100 == 1 {
		// struct posix_acl_xattr_header and entries (linux/posix_acl_xattr.h):
		// user::rw- user:1000:r-- group::r-- mask::r-- other::r--.
		acl := []byte{2, 0, 0, 0}
		for _, e := range [][3]uint32{{1, 6, ^uint32(0)}, {2, 4, 1000}, {4, 4, ^uint32(0)}, {16, 4, ^uint32(0)}, {32, 4, ^uint32(0)}} {
			acl = append(acl, byte(e[0]), 0, byte(e[1]), 0, byte(e[2]), byte(e[2]>>8), byte(e[2]>>16), byte(e[2]>>24))
		}
		must(t, unix.Lsetxattr(name, "system.posix_acl_access", acl, 0))
	}
	if i%200 == 2 {
		must(t, os.Link(name, name+".same"))
	}
}

// benchEmpty is an ext4 image of that many empty files.
func benchEmpty(t *testing.T, files int) (image string) {
	dir := benchCache(t)
	image = filepath.Join(dir, fmt.Sprintf("empty-%d.img", files))
	if _, err := os.Stat(image); err == nil {
		return image
	}
	fmt.Printf("making the image of %d files: once\n", files)
	tree, err := os.MkdirTemp("/dev/shm", "plumbline-bench-*")
	if err != nil {
		tree, err = os.MkdirTemp(dir, "empty-*")
	}
	must(t, err)
	defer os.RemoveAll(tree)
	for i := range files {
		name := filepath.Join(tree, fmt.Sprintf("usr/share/directory%d/some-file-name-%d.txt", i/500, i%500))
		if i%500 == 0 {
			must(t, os.MkdirAll(filepath.Dir(name), 0o755))
		}
		must(t, os.WriteFile(name, nil, 0o644))
	}
	makeImage(t, tree, image, fmt.Sprintf("%dM", 32+files/1750), "-N", fmt.Sprint(files+files/100))
	return image
}

func makeImage(t *testing.T, tree, image, size string, options ...string) {
	t.Helper()
	part := image + ".part"
	mustRun(t, "truncate", "-s", size, part)
	mustRun(t, "mke2fs", append(append([]string{"-q", "-F", "-t", "ext4"}, options...), "-d", tree, part)...)
	must(t, os.Rename(part, image))
}

func benchCache(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	must(t, err)
	dir := filepath.Join(cache, "plumbline", corpusVersion)
	must(t, os.MkdirAll(dir, 0o755))
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustRun(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}
