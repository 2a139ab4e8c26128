package check

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/mem/memtest"
	"github.com/plumbline-sec/plumbline/measure/paging"
)

// earlierMachine has pages at a base, in one of 1 GiB. It keeps what scans of it read.
type earlierMachine struct {
	memtest.Pages
	kept *earlier
}

const earlierBase = 0xffff_ffff_8000_0000

func newEarlierMachine(pages int) *earlierMachine {
	m := &earlierMachine{Pages: make(memtest.Pages), kept: newEarlier()}
	m.WriteU64(0x10_0000+511*8, 0x10_1000|3)
	m.WriteU64(0x10_1000+510*8, 0x83)
	for i := range pages {
		m.WriteU64(mem.Phys(i*mem.PageSize), uint64(i)<<32|1)
	}
	return m
}

// scan reads the first pages as one scan does, and fails the test if what it has is not
// what memory has.
func (m *earlierMachine) scan(t *testing.T, name string, pages int) Pages {
	t.Helper()
	c := &collector{ctx: t.Context(), space: paging.SpaceAt(m, 0x10_0000, 4), pages: make(Pages)}
	r, err := c.readKept(name, earlierBase, earlierBase+mem.Virt(pages)*mem.PageSize, c.space, m.kept)
	if err != nil {
		t.Fatal(err)
	}
	for i := range pages {
		d, ok := r.digest(i)
		page := m.Pages[mem.Phys(i*mem.PageSize)]
		if ok != (page != nil) || ok && (d != DigestOf(page[:]) || DigestOf(c.pages[d]) != d) {
			t.Errorf("page %d: digest %v, memory %v", i, ok, page != nil)
		}
	}
	return c.pages
}

// What a scan finds is what memory has, whatever the one before found there: few pages
// that changed, many, those that came or went. What is the same is not held twice.
func TestPagesOfEarlierScans(t *testing.T) {
	const pages = 3*hashedAtOnce + 5
	m := newEarlierMachine(pages)
	first := m.scan(t, "text", pages)
	again := m.scan(t, "text", pages)
	for d, b := range first {
		if &again[d][0] != &b[0] {
			t.Fatalf("page %v was read again though it is the same", d)
		}
	}
	for name, change := range map[string]func(){
		"one": func() { m.WriteU64(5*mem.PageSize+8, 7) },
		"some": func() {
			m.WriteU64(8, 8)
			m.WriteU64(hashedAtOnce*mem.PageSize, 8)
			m.WriteU64((pages-1)*mem.PageSize, 8)
		},
		"half of each": func() {
			for i := 0; i < pages; i += 2 {
				m.WriteU64(mem.Phys(i*mem.PageSize), uint64(i)<<40|2)
			}
		},
		"one goes":  func() { delete(m.Pages, 7*mem.PageSize) },
		"one comes": func() { m.WriteU64(7*mem.PageSize, 77) },
		"many go": func() {
			for i := 10; i < 30; i++ {
				delete(m.Pages, mem.Phys(i*mem.PageSize))
			}
		},
		"two exchanged": func() { m.WriteU64(40*mem.PageSize, 1); m.WriteU64(41*mem.PageSize, 1) },
	} {
		change()
		if m.scan(t, "text", pages); t.Failed() {
			t.Fatal(name)
		}
	}
}

// A target has no scan hold on to the memory of pages that went, by the few beside them
// that stayed.
func TestPagesOfEarlierScansHoldNoOthers(t *testing.T) {
	const pages = 8 * hashedAtOnce // 2 MiB
	m := newEarlierMachine(pages)
	heap := func() uint64 {
		var s runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&s)
		return s.HeapAlloc
	}
	m.scan(t, "text", pages)
	before := heap()
	for round := 1; round < hashedAtOnce; round++ {
		for i := range pages {
			if i%hashedAtOnce >= round { // one more of each piece stays as it is each time
				m.WriteU64(mem.Phys(i*mem.PageSize), uint64(round)<<48|uint64(i))
			}
		}
		m.scan(t, "text", pages)
	}
	if after := heap(); after > before+2*pages*mem.PageSize {
		t.Errorf("%d bytes more are held for %d", after-before, pages*mem.PageSize)
	}
	// Each time, a page that stays takes the contents of one in another piece, of which
	// all pages change.
	for round := range hashedAtOnce {
		m.WriteU64(mem.Phys(round*mem.PageSize), uint64(round+1)<<56)
		for i := hashedAtOnce; i < pages; i++ {
			m.WriteU64(mem.Phys(i*mem.PageSize), uint64(round+1)<<56|uint64(i-hashedAtOnce))
		}
		m.scan(t, "text", pages)
	}
	if after := heap(); after > before+2*pages*mem.PageSize {
		t.Errorf("%d bytes more are held for %d where pages are equal", after-before, pages*mem.PageSize)
	}
	runtime.KeepAlive(m)
}

// Scans of several machines with one kernel at once each find what their own memory has.
func TestPagesOfEarlierScansAtOnce(t *testing.T) {
	const pages = 2 * hashedAtOnce
	kept := newEarlier()
	for machine := range 4 {
		t.Run(fmt.Sprint(machine), func(t *testing.T) {
			t.Parallel()
			m := newEarlierMachine(pages)
			m.kept = kept
			for round := range 10 {
				for i := machine; i < pages; i += 10 * (1 + round%3) {
					m.WriteU64(mem.Phys(i*mem.PageSize), uint64(machine)<<48|uint64(round))
				}
				m.scan(t, "text", pages)
				m.scan(t, fmt.Sprint("module ", round), pages/2)
			}
		})
	}
}

// What is kept is bounded, and what was asked for longest ago goes first.
func TestEarlierIsBounded(t *testing.T) {
	e := newEarlier()
	region := func(i, pages int) *region {
		return &region{Name: fmt.Sprint(i), Digests: make([]byte, pages*len(Digest{}))}
	}
	const each = maxEarlier / 4
	for i := range 10 {
		e.keep(region(i, each), make([]keptPage, each))
		if e.of(region(0, each)) == nil {
			t.Fatalf("after %d regions the one that is asked for each time is gone", i)
		}
	}
	if e.of(region(9, each)) == nil || e.of(region(5, each)) != nil || len(e.regions) != 4 || e.pages != maxEarlier {
		t.Errorf("%d regions of %d pages", len(e.regions), e.pages)
	}
	e.keep(region(11, maxEarlier+1), make([]keptPage, maxEarlier+1))
	e.keep(region(9, each), make([]keptPage, each))
	if len(e.regions) != 4 || e.pages != maxEarlier {
		t.Errorf("%d regions of %d pages", len(e.regions), e.pages)
	}
	for i := range 10 {
		e.keep(region(100+i, 0), nil)
	}
	if len(e.regions) != 4 {
		t.Errorf("%d regions, with those that have no pages", len(e.regions))
	}
	(*earlier)(nil).keep(region(0, 1), nil)
	if (*earlier)(nil).of(region(0, 1)) != nil || (&collector{}).earlier() != nil {
		t.Error("nothing has pages")
	}
	if p := (&kernel.Profile{}); (&collector{profile: p}).earlier() == nil {
		t.Error("a profile that is not kept has none")
	}
}
