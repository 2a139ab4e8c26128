//go:build bench

package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The corpora are kept in the user's cache directory, because making them takes
// minutes; the name has the recipe's version.
const corpusVersion = "bench-files-2"

// benchTree is a tree of 60,000 files with sizes like a Debian system's (most
// of a few KiB, a long tail, a gigabyte in all), and an ext4 image of it.
func benchTree(t *testing.T) (tree, image string) {
	dir := benchCache(t)
	tree, image = filepath.Join(dir, "tree"), filepath.Join(dir, "tree.img")
	if _, err := os.Stat(image); err == nil {
		return tree, image
	}
	fmt.Println("making the tree of 60,000 files: once")
	random := rand.NewChaCha8([32]byte{1})
	numbers := rand.New(random)
	blob := make([]byte, 16<<20)
	random.Read(blob)
	for i := range 60_000 {
		name := filepath.Join(tree, fmt.Sprintf("usr/share/package%d/file%d", i%600, i))
		must(t, os.MkdirAll(filepath.Dir(name), 0o755))
		size := min(int(1200/(1-numbers.Float64())), 4<<20)
		off := numbers.IntN(len(blob) - size)
		must(t, os.WriteFile(name, blob[off:off+size], 0o644))
	}
	makeImage(t, tree, image, "4G", "-N", "100000")
	return tree, image
}

// benchMillion is an ext4 image of a million files.
func benchMillion(t *testing.T) (image string) {
	dir := benchCache(t)
	image = filepath.Join(dir, "million.img")
	if _, err := os.Stat(image); err == nil {
		return image
	}
	fmt.Println("making the image of 1,000,000 files: once")
	tree, err := os.MkdirTemp("/dev/shm", "plumbline-bench-*")
	if err != nil {
		tree, err = os.MkdirTemp(dir, "million-*")
	}
	must(t, err)
	defer os.RemoveAll(tree)
	for i := range 1_000_000 {
		name := filepath.Join(tree, fmt.Sprintf("usr/share/directory%d/some-file-name-%d.txt", i/500, i%500))
		if i%500 == 0 {
			must(t, os.MkdirAll(filepath.Dir(name), 0o755))
		}
		must(t, os.WriteFile(name, nil, 0o644))
	}
	makeImage(t, tree, image, "600M", "-N", "1010000")
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

// measured is what one run of a program took.
type measured struct {
	wall, cpu time.Duration
	peak      int64 // resident memory, bytes
}

// timed runs a program; exit codes up to okay are no failure.
func timed(t *testing.T, okay int, name string, args ...string) measured {
	t.Helper()
	cmd := exec.Command(name, args...)
	start := time.Now()
	out, err := cmd.CombinedOutput()
	took := time.Since(start)
	if cmd.ProcessState == nil || !cmd.ProcessState.Exited() || cmd.ProcessState.ExitCode() > okay {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	usage := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	m := measured{took, cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), usage.Maxrss << 10}
	fmt.Printf("%-60s %6.2f s, %6.2f s of CPU, %4d MiB\n", filepath.Base(name)+" "+args[0], m.wall.Seconds(), m.cpu.Seconds(), m.peak>>20)
	return m
}

// aideConfig asks AIDE for what our rules ask for.
const aideConfig = `database_in=file:%[1]s/aide.db
database_out=file:%[1]s/aide.db
gzip_dbout=no
report_url=file:%[1]s/aide.report
All=p+ftype+i+l+n+u+g+s+m+c+acl+xattrs+sha256
%[2]s All
`

const benchRules = `[[rule]]
path = "**"
level = "verify"
check = ["all", "sha256"]
`

// TestBenchFiles compares with AIDE and b3sum on one tree: they read it as a
// directory, plumbline reads an image of it. Everything is warm: each program
// has run once before it is measured.
func TestBenchFiles(t *testing.T) {
	tree, image := benchTree(t)
	dir := t.TempDir()
	t.Setenv("XDG_CONFIG_HOME", dir)
	t.Setenv("XDG_STATE_HOME", dir)
	plumbline := filepath.Join(dir, "plumbline.bin")
	build := exec.Command("go", "build", "-trimpath", "-o", plumbline, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	rules, config, file := dir+"/rules.toml", dir+"/aide.conf", dir+"/b"
	must(t, os.WriteFile(rules, []byte(benchRules), 0o644))
	must(t, os.WriteFile(config, fmt.Appendf(nil, aideConfig, dir, tree), 0o644))
	ours := func(args ...string) measured {
		return timed(t, 0, plumbline, append([]string{"baseline"}, args...)...)
	}
	best := func(runs int, f func() measured) measured {
		m := f()
		for range runs {
			if again := f(); again.wall < m.wall {
				m = again
			}
		}
		return m
	}
	create := best(2, func() measured { return ours("create", "--disk", image, "--rules", rules, "-f", file) })
	check := best(2, func() measured { return ours("check", "--disk", image, "-f", file) })
	hash := best(2, func() measured { return ours("create", "--disk", image, "-f", dir+"/plain") })
	b3sum := best(1, func() measured {
		return timed(t, 0, "sh", "-c", "find "+tree+" -type f -print0 | xargs -0 -n 500 b3sum > /dev/null")
	})
	aideInit := best(0, func() measured { return timed(t, 0, "aide", "--init", "--config="+config) })
	aideCheck := best(0, func() measured { return timed(t, 7, "aide", "--check", "--config="+config) })

	line("files.create", create.wall.Seconds(), "s")
	line("files.create", aideInit.wall.Seconds()/create.wall.Seconds(), "x vs aide")
	line("files.check", check.wall.Seconds(), "s")
	line("files.check", aideCheck.wall.Seconds()/check.wall.Seconds(), "x vs aide")
	line("files.hash", hash.wall.Seconds(), "s")
	line("files.hash", b3sum.wall.Seconds()/hash.wall.Seconds(), "x vs b3sum")

	million := benchMillion(t)
	create = ours("create", "--disk", million, "-f", dir+"/million")
	check = ours("check", "--disk", million, "-f", dir+"/million")
	line("files.memory", float64(max(create.peak, check.peak))/(1<<20), "MiB")
}

func line(name string, value float64, unit string) {
	fmt.Printf("bench %s %.2f %s\n", name, value, unit)
}
