package check

import (
	"bytes"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/mem/memtest"
	"github.com/plumbline-sec/plumbline/measure/paging"
)

// locked is memory with a lock that somebody has from then until then.
type locked struct {
	memtest.Pages
	mu          sync.Mutex
	began       time.Time
	from, until time.Duration
}

const lockAt mem.Phys = 0x1000

func (l *locked) ReadPhys(p []byte, at mem.Phys) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	owner := uint64(0)
	if now := time.Since(l.began); now >= l.from && now < l.until {
		owner = 1
	}
	l.WriteU64(lockAt, owner)
	return l.Pages.ReadPhys(p, at)
}

// readsLocked reads a page of a target whose lock somebody has, by so many checks at
// the same time, so often, and returns whether it was held at each reading and how long
// all took.
func readsLocked(t *testing.T, from, until time.Duration, checks, times int) (held []bool, took time.Duration) {
	t.Helper()
	const base = 0xffff_ffff_8000_0000
	memory := &locked{Pages: make(memtest.Pages), began: time.Now(), from: from, until: until}
	memory.WriteU64(0x10000+511*8, 0x11000|3) // one page of 1 GiB
	memory.WriteU64(0x11000+510*8, 0x83)
	memory.WriteU64(0x2000, 0x90)
	began := time.Now()
	var mu sync.Mutex
	c := &collector{ctx: t.Context(), root: paging.SpaceAt(memory, 0x10000, 4), forLocks: &patience{left: lockPatience}}
	var all sync.WaitGroup
	for range checks {
		all.Go(func() {
			twin := c.twin()
			for range times {
				q := quiet{collector: twin, locks: []mem.Virt{base + mem.Virt(lockAt)}}
				err := q.Read(make([]byte, mem.PageSize), base+0x2000)
				mu.Lock()
				if held = append(held, len(q.held) > 0); err != nil {
					t.Error(err)
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return held, time.Since(began)
}

// All checks together wait for locks as long as one may: a kernel that patches all
// the time holds a scan up once. One that stops is read, whoever waited before.
func TestScanWaitsForLocksOnce(t *testing.T) {
	tests := map[string]struct {
		from, until   time.Duration
		checks, times int
		held          bool
		most          time.Duration
	}{
		"free":                          {0, 0, 1, 3, false, 0},
		"for a while":                   {0, 8 * time.Second, 1, 3, false, 8*time.Second + patchingPause},
		"for a while, of two checks":    {0, 8 * time.Second, 2, 3, false, 8*time.Second + patchingPause},
		"all the time":                  {0, time.Hour, 1, 3, true, lockPatience + patchingPause},
		"all the time, of three checks": {0, time.Hour, 3, 3, true, lockPatience + patchingPause},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				held, took := readsLocked(t, tt.from, tt.until, tt.checks, tt.times)
				if slices.Contains(held, !tt.held) {
					t.Errorf("held: %v", held)
				}
				if len(held) != tt.checks*tt.times || took > tt.most {
					t.Errorf("%d readings took %v", len(held), took)
				}
			})
		})
	}
}

// Time in which nobody waited is not counted, nor that of two who wait twice.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &patience{left: 10 * time.Second}
		var two sync.WaitGroup
		for range 2 {
			two.Go(func() {
				time.Sleep(20 * time.Second)
				_ = p.wait(t.Context(), 6*time.Second)
			})
		}
		two.Wait()
		if p.over() {
			t.Error("over after 6 of 10 seconds")
		}
		time.Sleep(20 * time.Second)
		if _ = p.wait(t.Context(), 4*time.Second); !p.over() {
			t.Error("not over after 10 seconds")
		}
		if !(*patience)(nil).over() {
			t.Error("nobody's patience is not over")
		}
	})
}

// What is different in text that is read again is taken, page by page, until nothing
// is: as it was, and as memory has it.
func TestTextIsReadAgain(t *testing.T) {
	const base, text, pages = 0xffff_ffff_8000_0000, 0x3000, 4
	memory := make(memtest.Pages)
	memory.WriteU64(0x10000+511*8, 0x11000|3) // one page of 1 GiB
	memory.WriteU64(0x11000+510*8, 0x83)
	for i := range mem.Phys(pages - 1) { // the last cannot be read
		memory.WriteU64(text+i*mem.PageSize, uint64(i))
	}
	space := paging.SpaceAt(memory, 0x10000, 4)
	c := &collector{ctx: t.Context(), space: space, pages: make(Pages), profile: &kernel.Profile{Space: space, Types: freedTypes(t), Symbols: kernel.NewSymbols(nil)}}
	r, err := c.textRegion("text", base+text, base+text+pages*mem.PageSize)
	if err != nil {
		t.Fatal(err)
	}
	refresh := func(want bool) {
		t.Helper()
		if same, err := c.refresh(&r); err != nil || same != want {
			t.Errorf("the same: %v, %v", same, err)
		}
		again, err := c.textRegion("text", base+text, base+text+pages*mem.PageSize)
		if err != nil || !bytes.Equal(again.Digests, r.Digests) {
			t.Errorf("other pages than memory has: %v", err)
		}
		for i := range r.pages() {
			if d, ok := r.digest(i); ok && DigestOf(c.pages[d]) != d {
				t.Errorf("page %d has other bytes than its digest says", i)
			}
		}
	}
	refresh(true)
	memory.WriteU64(text+8, 0xcc)
	memory.WriteU64(text+2*mem.PageSize, 0xcc)
	refresh(false)
	refresh(true)
	memory.WriteU64(text+3*mem.PageSize, 1)
	refresh(false)
	delete(memory, text+mem.PageSize)
	refresh(false)
	refresh(true)
	c.pages = make(Pages) // nothing to compare with
	refresh(false)
}

// Text that is read under a lock is named, also where it is only compared with what an
// earlier scan found without one.
func TestHeldTextOfEarlierScans(t *testing.T) {
	const base, text, pages = 0xffff_ffff_8000_0000, 0x3000, mem.Phys(hashedAtOnce + 3)
	for name, changed := range map[string]mem.Phys{"none": 0, "a few": otherAtOnce, "many": 2 * otherAtOnce} {
		t.Run(name, func(t *testing.T) {
			memory := make(memtest.Pages)
			memory.WriteU64(0x10_0000+511*8, 0x10_1000|3) // one page of 1 GiB
			memory.WriteU64(0x10_1000+510*8, 0x83)
			memory.WriteU64(lockAt, 0)
			for i := range pages {
				memory.WriteU64(text+i*mem.PageSize, uint64(i))
			}
			space := paging.SpaceAt(memory, 0x10_0000, 4)
			symbols := kernel.NewSymbols([]kernel.Symbol{{Addr: base + uint64(lockAt), Kind: 'd', Name: "text_mutex"}})
			kept := newEarlier()
			for _, owner := range []uint64{0, 1} {
				memory.WriteU64(lockAt, owner)
				c := &collector{ctx: t.Context(), space: space, pages: make(Pages), forLocks: &patience{}, profile: &kernel.Profile{Space: space, Types: freedTypes(t), Symbols: symbols}}
				q := c.quiet()
				r, err := c.readKept("text", base+text, base+text+mem.Virt(pages)*mem.PageSize, q, kept)
				if err != nil || q.err != nil {
					t.Fatal(err, q.err)
				}
				for i := range r.pages() {
					want := memory[text+mem.Phys(i)*mem.PageSize]
					if d, _ := r.digest(i); d != DigestOf(want[:]) {
						t.Errorf("page %d is not as memory has it", i)
					}
					if slices.Contains(q.held, address(r.page(i))) != (owner != 0) {
						t.Errorf("lock %d: page %d, held %v", owner, i, q.held)
					}
				}
				for i := range changed {
					memory.WriteU64(text+3*i*mem.PageSize, 0xcc)
				}
			}
		})
	}
}

// poked is memory of a target that never lets go of the lock, and changes a word of its
// text with each so many readings.
type poked struct {
	memtest.Pages
	text    mem.Phys
	every   int
	reading int
}

func (p *poked) ReadPhys(b []byte, at mem.Phys) error {
	if at == p.text && p.every > 0 {
		if p.reading++; p.reading%p.every == 0 {
			p.WriteU64(p.text, uint64(p.reading))
		}
	}
	return p.Pages.ReadPhys(b, at)
}

// Text under a lock counts if two readings in a row found the same of it. Each page
// that was read so is named.
func TestTextThatIsHeld(t *testing.T) {
	const base, text, pages = 0xffff_ffff_8000_0000, 0x3000, 3
	for name, tt := range map[string]struct {
		every int
		err   error
	}{"and rests": {0, nil}, "and changes now and then": {3, nil}, "and changes all the time": {1, errPatching}} {
		t.Run(name, func(t *testing.T) {
			memory := &poked{Pages: make(memtest.Pages), text: text, every: tt.every}
			memory.WriteU64(0x10000+511*8, 0x11000|3) // one page of 1 GiB
			memory.WriteU64(0x11000+510*8, 0x83)
			memory.WriteU64(lockAt, 1)
			for i := range mem.Phys(pages) {
				memory.WriteU64(text+i*mem.PageSize, uint64(i))
			}
			space := paging.SpaceAt(memory, 0x10000, 4)
			symbols := kernel.NewSymbols([]kernel.Symbol{{Addr: base + uint64(lockAt), Kind: 'd', Name: "text_mutex"}})
			c := &collector{ctx: t.Context(), space: space, pages: make(Pages), forLocks: &patience{}, profile: &kernel.Profile{Space: space, Types: freedTypes(t), Symbols: symbols}}
			r, err := c.textRegion("text", base+text, base+text+pages*mem.PageSize)
			if !errors.Is(err, tt.err) || err != nil && tt.err == nil {
				t.Fatal(err)
			}
			for i := range r.pages() {
				if err == nil && !r.held(i) {
					t.Errorf("page %d was read under the lock: %v", i, r.Held)
				}
			}
			if r.validate() != nil || r.held(-1) || r.held(pages) {
				t.Errorf("held: %v", r.Held)
			}
			memory.WriteU64(lockAt, 0)
			memory.every = 0
			if same, err := c.refresh(&r); err != nil || len(r.Held) > 0 || tt.err == nil && tt.every == 0 && !same {
				t.Errorf("read again, with the lock free: %v, %v, held %v", same, err, r.Held)
			}
		})
	}
}
