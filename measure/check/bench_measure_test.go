//go:build bench

package check_test

import (
	"bytes"
	"fmt"
	"slices"
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
}

func newBench(t *testing.T, o lab.Options) *bench {
	t.Helper()
	m := lab.StartT(t, o)
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
	return &bench{vm, &kernel.Cache{}, check.References{Images: oneImage{image}, Modules: modules, Accepted: accepted{}, Memo: &check.Memo{}}}
}

type oneImage struct{ image *kernel.Image }

func (o oneImage) Image(string) (*kernel.Image, error) { return o.image, nil }

type accepted map[check.PageKey]bool

func (a accepted) Accepted(key check.PageKey) bool { return a[key] }
func (a accepted) Accept(key check.PageKey)        { a[key] = true }

// scan measures and judges once; a scan that does not pass says nothing about
// speed.
func (b *bench) scan(t *testing.T) (elapsed, pause time.Duration) {
	t.Helper()
	start := time.Now()
	result, err := check.Scan(t.Context(), b.vm, &check.Options{Profiles: b.profiles})
	if err != nil {
		t.Fatal(err)
	}
	b.refs.Pages = result.Pages
	report, err := check.Judge(result.Observations, &b.refs)
	if err != nil {
		t.Fatal(err)
	}
	if elapsed = time.Since(start); report.Outcome != measure.Pass {
		var text bytes.Buffer
		report.WriteText(&text)
		t.Fatalf("%s", &text)
	}
	return elapsed, time.Duration(result.Observations.PauseNS)
}

// steady scans n times and returns what each took, ascending.
func (b *bench) steady(t *testing.T, n int) (elapsed, pauses []time.Duration) {
	t.Helper()
	for range n {
		e, p := b.scan(t)
		elapsed, pauses = append(elapsed, e), append(pauses, p)
	}
	slices.Sort(elapsed)
	slices.Sort(pauses)
	return elapsed, pauses
}

func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }

// TestBenchMeasure prints what a full scan costs: the pause of the target, the
// first scan with everything to be explained, and scans when nothing changed.
func TestBenchMeasure(t *testing.T) {
	b := newBench(t, lab.Options{})
	first, _ := b.scan(t)
	fmt.Printf("bench measure.first %.0f ms\n", milliseconds(first))
	elapsed, pauses := b.steady(t, 100)
	fmt.Printf("bench measure.steady %.1f ms\n", milliseconds(elapsed[len(elapsed)/2]))
	fmt.Printf("bench measure.pause.p50 %.2f ms\n", milliseconds(pauses[len(pauses)/2]))
	fmt.Printf("bench measure.pause.p99 %.2f ms\n", milliseconds(pauses[len(pauses)*99/100]))
}

// TestBenchRAMGrowth compares scans of a guest of 8 GiB with one of 512 MiB.
func TestBenchRAMGrowth(t *testing.T) {
	var median [2]time.Duration
	for i, size := range []int64{512 << 20, 8 << 30} {
		t.Run(fmt.Sprintf("%d MiB", size>>20), func(t *testing.T) {
			b := newBench(t, lab.Options{Memory: size})
			b.scan(t)
			elapsed, _ := b.steady(t, 30)
			median[i] = elapsed[len(elapsed)/2]
		})
	}
	if median[0] == 0 || median[1] == 0 {
		t.Fatal("a machine was not measured")
	}
	fmt.Printf("bench measure.ram-growth %.2f x vs 512 MiB\n", float64(median[1])/float64(median[0]))
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
