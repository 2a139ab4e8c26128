//go:build bench

package main

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// measured is what one run of a program took.
type measured struct {
	wall, cpu time.Duration
	peak      int64 // resident memory, bytes
}

// timed runs a program through testdata/benchrun, which is small, so that the peak
// is the program's own; exit codes up to okay are no failure.
func timed(t *testing.T, okay int, name string, args ...string) measured {
	t.Helper()
	report, w, err := os.Pipe()
	must(t, err)
	defer report.Close()
	cmd := exec.Command(benchRun(t), append([]string{name}, args...)...)
	cmd.ExtraFiles = []*os.File{w}
	out, err := cmd.CombinedOutput()
	w.Close()
	var m measured
	var code int
	if _, scanErr := fmt.Fscan(report, &m.wall, &m.cpu, &m.peak, &code); err != nil || scanErr != nil || code > okay {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), cmp.Or(err, scanErr, fmt.Errorf("exit code %d", code)), out)
	}
	fmt.Printf("%-60s %6.2f s, %6.2f s of CPU, %4d MiB\n", filepath.Base(name)+" "+args[0], m.wall.Seconds(), m.cpu.Seconds(), m.peak>>20)
	return m
}

// benchRun builds testdata/benchrun, once.
func benchRun(t *testing.T) string {
	t.Helper()
	program := filepath.Join(benchCache(t), "benchrun")
	benchRunBuilt.Do(func() { goBuild(t, program, "./testdata/benchrun") })
	return program
}

var benchRunBuilt sync.Once

// aideConfig asks AIDE for what our rules ask for.
const aideConfig = `database_in=file:%[1]s/aide.db
database_out=file:%[1]s/aide.db
gzip_dbout=no
report_url=file:%[1]s/aide.report
All=p+ftype+i+l+n+u+g+s+m+c+acl+xattrs+sha256
%[2]s All
`

// benchRules ask for what aideConfig asks for, and for nothing else.
const benchRules = `[[rule]]
path = "**"
level = "verify"
check = ["type", "mode", "uid", "gid", "size", "nlink", "names", "inode", "link", "mtime", "ctime", "xattrs", "sha256"]
`

// contender is a program in a comparison. Everything it reads is warm, because
// its first run does not count, unless cold.
type contender struct {
	run  func() measured
	best measured
}

func (c *contender) round(cold func()) {
	cold()
	if m := c.run(); c.best.wall == 0 || m.wall < c.best.wall {
		c.best = m
	}
}

// inTurn runs each in turn, so that what else the machine does hits all alike,
// and keeps the best of each.
func inTurn(rounds int, cold func(), cs ...*contender) {
	for range rounds {
		for _, c := range cs {
			c.round(cold)
		}
	}
}

// TestBenchFiles compares with AIDE and b3sum on one tree: they read it as a
// directory, plumbline reads an image of it. AIDE runs as it does by default,
// with one worker, and with one per core.
func TestBenchFiles(t *testing.T) {
	tree, image := benchTree(t)
	dir := t.TempDir()
	plumbline := benchProgram(t, dir)
	rules, config, file := dir+"/rules.toml", dir+"/aide.conf", dir+"/b"
	must(t, os.WriteFile(rules, []byte(benchRules), 0o644))
	must(t, os.WriteFile(config, fmt.Appendf(nil, aideConfig, dir, tree), 0o644))
	ours := func(args ...string) *contender {
		return &contender{run: func() measured { return timed(t, 0, plumbline, append([]string{"baseline"}, args...)...) }}
	}
	other := func(okay int, name string, args ...string) *contender {
		return &contender{run: func() measured { return timed(t, okay, name, args...) }}
	}
	create := ours("create", "--disk", image, "--rules", rules, "-f", file)
	check := ours("check", "--disk", image, "-f", file)
	hash := ours("create", "--disk", image, "-f", dir+"/plain")
	b3sum := other(0, "sh", "-c", "find "+tree+" -type f -print0 | xargs -0 -n 500 b3sum > /dev/null")
	aideInit := other(0, "aide", "--init", "--config="+config)
	aideCheck := other(7, "aide", "--check", "--config="+config)
	workers := []string{"--before=num_workers=" + strconv.Itoa(runtime.NumCPU()), "--config=" + config}
	aideInitAll := other(0, "aide", append([]string{"--init"}, workers...)...)
	aideCheckAll := other(7, "aide", append([]string{"--check"}, workers...)...)

	version, err := exec.Command("aide", "--version").Output()
	must(t, err)
	fmt.Printf("compared with %s, b3sum; %d cores\n", strings.SplitN(string(version), "\n", 2)[0], runtime.NumCPU())
	warm := func() {}
	hash.run()
	b3sum.run()
	inTurn(5, warm, hash, b3sum)
	contenders := []*contender{create, check, aideInit, aideCheck, aideInitAll, aideCheckAll}
	most := ceiling(t, image)
	if most != nil {
		contenders = append(contenders, most)
	}
	inTurn(3, warm, contenders...)
	if most != nil {
		line("files.ceiling", most.best.wall.Seconds(), "s")
		line("files.ceiling", aideInit.best.wall.Seconds()/most.best.wall.Seconds(), "x vs aide --init: no create that reads every byte can be faster")
		line("files.ceiling.create", create.best.wall.Seconds()/most.best.wall.Seconds(), "x what reading and SHA-256 alone take")
	}
	compare(t, "files.create", create, aideInit, "aide")
	compare(t, "files.create.workers", create, aideInitAll, "aide with one worker per core")
	compare(t, "files.check", check, aideCheck, "aide")
	compare(t, "files.check.workers", check, aideCheckAll, "aide with one worker per core")
	compare(t, "files.hash", hash, b3sum, "b3sum")
	hash.best, b3sum.best = measured{}, measured{}
	inTurn(2, func() { dropCaches(t, tree, image) }, hash, b3sum)
	compare(t, "files.hash.cold", hash, b3sum, "b3sum")

	benchMillion(t, func(image string) (create, check *contender) {
		file := filepath.Join(dir, filepath.Base(image))
		return ours("create", "--disk", image, "-f", file), ours("check", "--disk", image, "-f", file)
	})
}

// benchProgram builds the program into dir, which holds its keys and state too.
func benchProgram(t *testing.T, dir string) string {
	t.Helper()
	t.Setenv("XDG_CONFIG_HOME", dir)
	t.Setenv("XDG_STATE_HOME", dir)
	plumbline := filepath.Join(dir, "plumbline.bin")
	goBuild(t, plumbline, ".")
	return plumbline
}

func goBuild(t *testing.T, program, dir string) {
	t.Helper()
	build := exec.Command("go", "build", "-trimpath", "-o", program, dir)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
}

// benchMillion measures memory at a million files, and time at a million for
// each file against time at a quarter of it.
func benchMillion(t *testing.T, ours func(image string) (create, check *contender)) {
	t.Helper()
	const many = 1_000_000
	type pair struct{ create, check *contender }
	var pairs []pair
	for _, files := range []int{many / 4, many} {
		create, check := ours(benchEmpty(t, files))
		pairs = append(pairs, pair{create, check})
	}
	few, all := pairs[0], pairs[1]
	inTurn(2, func() {}, few.create, few.check, all.create, all.check)
	line("files.memory", float64(max(all.create.best.peak, all.check.best.peak))/(1<<20), "MiB")
	line("files.linear.create", all.create.best.wall.Seconds()/few.create.best.wall.Seconds()/4, "x vs a quarter of the files, per file")
	line("files.linear.check", all.check.best.wall.Seconds()/few.check.best.wall.Seconds()/4, "x vs a quarter of the files, per file")
}

func compare(t *testing.T, name string, ours, peer *contender, peerName string) {
	t.Helper()
	line(name, ours.best.wall.Seconds(), "s")
	line(name, peer.best.wall.Seconds()/ours.best.wall.Seconds(), "x vs "+peerName)
	line(name+".cpu", peer.best.cpu.Seconds()/ours.best.cpu.Seconds(), "x less processor time than "+peerName)
}

// dropCaches makes the next reader of the tree and of the image read the disk.
// Without root the kernel keeps the names and inodes of the tree, which is to
// the advantage of who reads the tree.
func dropCaches(t *testing.T, tree, image string) {
	t.Helper()
	if os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0) == nil {
		return
	}
	forget := func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	}
	must(t, filepath.WalkDir(tree, forget))
	must(t, filepath.WalkDir(image, forget))
}

func line(name string, value float64, unit string) {
	digits := 2
	if value < 0.1 {
		digits = 4 // of a share of a few hundredths the next two count
	}
	fmt.Printf("bench %s %.*f %s\n", name, digits, value, unit)
}
