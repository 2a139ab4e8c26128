//go:build bench

package check_test

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/internal/lab"
	"github.com/plumbline-sec/plumbline/internal/pagehash"
	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/check"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem/qemu"
)

// bench scans one machine again and again, as an agent and a verifier do.
type bench struct {
	vm       *qemu.VM
	profiles *kernel.Cache
	refs     check.References
	checks   []string // all for none
}

func newBench(t *testing.T, o lab.Options) *bench {
	t.Helper()
	return benchOf(t, lab.StartT(t, o))
}

func benchOf(t *testing.T, m *lab.Machine) *bench {
	t.Helper()
	image, err := kernel.OpenImage(m.Vmlinuz, &kernel.ImageOptions{CacheDir: kernel.DefaultCacheDir()})
	if err != nil {
		t.Fatal(err)
	}
	modules, err := kernel.OpenModules(m.Modules)
	if err != nil {
		t.Fatal(err)
	}
	vm, err := qemu.Open(t.Context(), m.QMP)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { vm.Close() })
	vm.Remember(&qemu.Places{})
	return &bench{vm: vm, profiles: &kernel.Cache{}, refs: check.References{Images: oneImage{image}, Modules: modules, Accepted: accepted{}, Memo: &check.Memo{}}}
}

type oneImage struct{ image *kernel.Image }

func (o oneImage) Image(string) (*kernel.Image, error) { return o.image, nil }

// scan measures and judges once; a scan that does not pass says nothing about
// speed.
func (b *bench) scan(t *testing.T) (elapsed, pause time.Duration) {
	t.Helper()
	start := time.Now()
	result := b.observe(t)
	report := b.judge(t, result)
	if elapsed = time.Since(start); report.Outcome != measure.Pass {
		fatalReport(t, report)
	}
	return elapsed, result.pause()
}

func (b *bench) judge(t *testing.T, result observed) *measure.Report {
	t.Helper()
	b.refs.Pages, b.refs.Checks = result.Pages, b.checks
	report, err := check.Judge(result.Observations, &b.refs)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func fatalReport(t *testing.T, report *measure.Report) {
	t.Helper()
	var text bytes.Buffer
	report.WriteText(&text)
	t.Fatalf("%s", &text)
}

type observed struct{ *check.Result }

func (o observed) pause() time.Duration { return time.Duration(o.Observations.PauseNS) }

// observe measures once.
func (b *bench) observe(t *testing.T) observed {
	t.Helper()
	result, err := check.Scan(t.Context(), b.vm, &check.Options{Profiles: b.profiles, Checks: b.checks})
	if err != nil {
		t.Fatal(err)
	}
	return observed{result}
}

// pausesWithin bounds how long pauses are counted on a machine that is busy.
const pausesWithin = 3 * time.Minute

func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

// TestBenchMeasure prints what a full scan costs: the pause of the target, the
// first scan with everything to be explained, and scans when nothing changed. Scans
// that have QEMU write its devices' state, as one does that remembers nothing of
// earlier ones, alternate with those that know where the registers are. Of so many
// pauses that one of a hundred is not one alone, most are of scans that nobody
// judges.
func TestBenchMeasure(t *testing.T) {
	b := newBench(t, lab.Options{})
	first, _ := b.scan(t)
	fmt.Printf("bench measure.first %.0f ms\n", milliseconds(first))
	var elapsed, pauses, forgetful []time.Duration
	var places qemu.Places
	for i := range 100 {
		b.vm.Remember(&places)
		e, p := b.scan(t)
		elapsed, pauses = append(elapsed, e), append(pauses, p)
		if i%4 == 0 {
			b.vm.Remember(nil)
			_, p = b.scan(t)
			forgetful = append(forgetful, p)
		}
	}
	fmt.Printf("bench measure.steady %.1f ms\n", median(elapsed))
	b.vm.Remember(&places)
	for end := time.Now().Add(pausesWithin); len(pauses) < 1000 && time.Now().Before(end); {
		pauses = append(pauses, b.observe(t).pause())
	}
	printPauses("measure.pause", pauses)
	fmt.Printf("bench measure.pause.devicestate %.1f x vs remembered\n", median(forgetful)/median(pauses))
}

// printPauses prints how long the target stood still at a time.
func printPauses(name string, pauses []time.Duration) {
	slices.Sort(pauses)
	of := func(share int) float64 { return milliseconds(pauses[min(len(pauses)*share/100, len(pauses)-1)]) }
	fmt.Printf("%d of %s: half under %.2f ms, 90 of 100 under %.2f, 99 under %.2f, all under %.2f\n", len(pauses), name, of(50), of(90), of(99), of(100))
	fmt.Printf("bench %s.p50 %.2f ms\n", name, of(50))
	fmt.Printf("bench %s.p90 %.2f ms\n", name, of(90))
	fmt.Printf("bench %s.p99 %.2f ms\n", name, of(99))
	fmt.Printf("bench %s.max %.2f ms\n", name, of(100))
}

// TestBenchRAMGrowth compares scans of a guest of 8 GiB with one of 512 MiB. Both
// run, and are scanned in turn.
func TestBenchRAMGrowth(t *testing.T) {
	sizes := []int64{512 << 20, 8 << 30}
	benches := make([]*bench, len(sizes))
	for i, size := range sizes {
		benches[i] = newBench(t, lab.Options{Memory: size})
		benches[i].scan(t)
	}
	elapsed, spent := make([][]time.Duration, len(sizes)), make([][]time.Duration, len(sizes))
	for range 25 {
		for i, b := range benches {
			before := processorTime(t)
			e, _ := b.scan(t)
			elapsed[i], spent[i] = append(elapsed[i], e), append(spent[i], processorTime(t)-before)
		}
	}
	ratio := func(all [][]time.Duration) float64 { return median(all[1]) / median(all[0]) }
	fmt.Printf("of 8 GiB %.1f ms, of 512 MiB %.1f ms; processor time %.2f times as much\n", median(elapsed[1]), median(elapsed[0]), ratio(spent))
	fmt.Printf("bench measure.ram-growth %.2f x vs 512 MiB\n", ratio(elapsed))
}

// processorTime is what this process has used, on all processors.
func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// median is in milliseconds.
func median(all []time.Duration) float64 {
	slices.Sort(all)
	return milliseconds(all[len(all)/2])
}

// TestBenchCrossViews compares the checks of processes and modules, registers,
// profile, pause and judgement included, with full walks that find the same.
// Rounds of both alternate.
func TestBenchCrossViews(t *testing.T) {
	b := newBench(t, lab.Options{})
	regs, err := b.vm.Registers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	walk := newFullWalk(t, b.vm.Memory(), regs)
	b.checks = []string{"linux.modules", "linux.processes"}
	b.scan(t) // which makes the profile, as newFullWalk did
	var ours, theirs []time.Duration
	for attempt := 0; len(theirs) < 9; attempt++ {
		walk.err = nil
		start := time.Now()
		tasks, candidates := walk.listedTasks(), walk.scannedTasks(t)
		listed, objects, scanned := walk.modules()
		took := time.Since(start)
		if walk.err != nil && attempt < 30 { // a list changed under it
			continue
		} else if walk.err != nil {
			t.Fatal(walk.err)
		}
		theirs = append(theirs, took)
		elapsed, _ := b.scan(t)
		ours = append(ours, elapsed)
		if len(tasks) == 0 || len(candidates) < len(tasks) || len(listed) == 0 || !maps.Equal(listed, objects) || !holds(scanned, listed) {
			t.Fatalf("the full walk found %d tasks on the list and %d in memory, modules %v, %v and %v", len(tasks), len(candidates), listed, objects, scanned)
		}
	}
	slices.Sort(ours)
	slices.Sort(theirs)
	fmt.Printf("cross-views: %.1f ms, full walks: %.0f ms\n", milliseconds(ours[len(ours)/2]), milliseconds(theirs[len(theirs)/2]))
	fmt.Printf("bench measure.crossviews %.1f x vs full-walk\n", float64(theirs[len(theirs)/2])/float64(ours[len(ours)/2]))
}

// holds says that all of part is in set. What a plain scan of RAM finds besides are
// structures of modules that are gone, whose memory nobody used since.
func holds[K, V comparable](set, part map[K]V) bool {
	for key, value := range part {
		if set[key] != value {
			return false
		}
	}
	return true
}

// TestBenchHashing compares hashing 32 MiB page by page, as scans do, with BLAKE3
// on the same bytes in one piece. Rounds of both alternate, so that a machine that
// is busy for a while slows both.
func TestBenchHashing(t *testing.T) {
	data := bytes.Repeat([]byte{0x90, 0x48, 0x89, 0xe5}, 8<<20)
	digests := make([]byte, len(data)/pagehash.PageSize*pagehash.DigestSize)
	whole, pages := time.Hour, time.Hour
	for range 20 {
		start := time.Now()
		blake3.Sum256(data)
		whole = min(whole, time.Since(start))
		start = time.Now()
		pagehash.Sum(digests, data)
		pages = min(pages, time.Since(start))
	}
	fmt.Printf("bench measure.hashing %.2f x vs blake3\n", float64(whole)/float64(pages))
}
