// Package memtest is the conformance suite of [mem.Reader]: every source of
// memory passes it.
package memtest

import (
	"bytes"
	"errors"
	"sync"
	"testing"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Options describe the memory that a source under test should have.
type Options struct {
	// Extents are the exact extents; nil if the test does not know them.
	Extents []mem.Extent
	// Bytes holds contents by address.
	Bytes map[mem.Phys][]byte
}

// Test runs the suite. The source must not change while it runs.
func Test(t *testing.T, r mem.Reader, opts Options) {
	t.Run("extents", func(t *testing.T) { testExtents(t, r, opts.Extents) })
	t.Run("contents", func(t *testing.T) { testContents(t, r, opts.Bytes) })
	t.Run("edges", func(t *testing.T) { testEdges(t, r) })
	t.Run("pieces", func(t *testing.T) { testPieces(t, r) })
	t.Run("equal", func(t *testing.T) { testEqual(t, r, opts.Bytes) })
	t.Run("touched", func(t *testing.T) { testTouched(t, r) })
	t.Run("concurrent", func(t *testing.T) { testConcurrent(t, r) })
}

func testExtents(t *testing.T, r mem.Reader, want []mem.Extent) {
	got := r.Extents()
	if len(got) == 0 {
		t.Fatal("no extents")
	}
	for i, e := range got {
		if e.Size == 0 || e.End() < e.Start {
			t.Errorf("extent %d is %v+%#x", i, e.Start, e.Size)
		}
		if i > 0 && e.Start < got[i-1].End() {
			t.Errorf("extent %d at %v starts before the end of the one before, %v", i, e.Start, got[i-1].End())
		}
	}
	if want != nil && !equal(got, want) {
		t.Errorf("extents are %v, want %v", got, want)
	}
	got[0] = mem.Extent{}
	if r.Extents()[0] == (mem.Extent{}) {
		t.Error("the caller can change the source's extents")
	}
}

func equal(a, b []mem.Extent) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

func testContents(t *testing.T, r mem.Reader, want map[mem.Phys][]byte) {
	for at, b := range want {
		got := make([]byte, len(b))
		if err := r.ReadPhys(got, at); err != nil {
			t.Errorf("read %v: %v", at, err)
		} else if !bytes.Equal(got, b) {
			t.Errorf("at %v: %x, want %x", at, got, b)
		}
	}
}

// testEdges reads up to the ends of extents and beyond.
func testEdges(t *testing.T, r mem.Reader) {
	extents := r.Extents()
	if err := r.ReadPhys(nil, extents[0].Start); err != nil {
		t.Errorf("reading nothing: %v", err)
	}
	for i, e := range extents {
		b := make([]byte, 16)
		if err := r.ReadPhys(b, e.Start); err != nil {
			t.Errorf("first bytes of %v: %v", e.Start, err)
		}
		if err := r.ReadPhys(b, e.End()-16); err != nil {
			t.Errorf("last bytes before %v: %v", e.End(), err)
		}
		if i+1 < len(extents) && extents[i+1].Start == e.End() {
			continue
		}
		for _, at := range []mem.Phys{e.End() - 8, e.End(), e.End() + 4096} {
			if i+1 < len(extents) && at+16 > extents[i+1].Start {
				continue
			}
			if err := r.ReadPhys(b, at); !errors.Is(err, mem.ErrNotMapped) {
				t.Errorf("16 bytes at %v, past %v: error %v, want %v", at, e.End(), err, mem.ErrNotMapped)
			}
		}
	}
	if err := r.ReadPhys(make([]byte, 8), ^mem.Phys(0)-3); !errors.Is(err, mem.ErrNotMapped) {
		t.Errorf("past the last address: error %v, want %v", err, mem.ErrNotMapped)
	}
}

// testPieces reads the same memory whole and in uneven pieces, across a page
// boundary and, where there is one, across two adjacent parts.
func testPieces(t *testing.T, r mem.Reader) {
	for _, e := range r.Extents() {
		size := min(e.Size, 3*mem.PageSize)
		whole := make([]byte, size)
		if err := r.ReadPhys(whole, e.Start); err != nil {
			t.Fatal(err)
		}
		pieces := make([]byte, size)
		for at, n := 0, 1; at < len(pieces); at, n = at+n, n*3+1 {
			n = min(n, len(pieces)-at)
			if err := r.ReadPhys(pieces[at:at+n], e.Start+mem.Phys(at)); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(whole, pieces) {
			t.Errorf("at %v: a read in pieces differs from one whole", e.Start)
		}
	}
}

// maxProbes bounds how many untouched pages are read.
const maxProbes = 64

// testTouched requires that touched memory lies in the extents, in order, and
// that what is not touched reads as zeros.
func testTouched(t *testing.T, r mem.Reader) {
	touched, err := mem.Touched(r)
	if err != nil {
		t.Fatal(err)
	}
	inExtents := func(x mem.Extent) bool {
		for _, e := range r.Extents() {
			if e.Contains(x.Start, x.Size) {
				return true
			}
		}
		return false
	}
	for i, x := range touched {
		if x.Size == 0 || !inExtents(x) {
			t.Errorf("touched %v+%#x is not in the extents", x.Start, x.Size)
		}
		if i > 0 && x.Start < touched[i-1].End() {
			t.Errorf("touched %v starts before %v", x.Start, touched[i-1].End())
		}
	}
	for _, at := range untouched(r.Extents(), touched) {
		page := make([]byte, mem.PageSize)
		if err := r.ReadPhys(page, at); err != nil {
			t.Errorf("untouched page at %v: %v", at, err)
		}
		if !bytes.Equal(page, make([]byte, mem.PageSize)) {
			t.Errorf("untouched page at %v is not zero", at)
		}
	}
}

// untouched lists some pages that are in extents and not in touched.
func untouched(extents, touched []mem.Extent) []mem.Phys {
	var out []mem.Phys
	for _, e := range extents {
		step := max(e.Size/maxProbes&^(mem.PageSize-1), mem.PageSize)
		for at := e.Start; at < e.End() && uint64(e.End()-at) >= mem.PageSize; at += mem.Phys(step) {
			hit := false
			for _, x := range touched {
				hit = hit || at+mem.PageSize > x.Start && at < x.End()
			}
			if !hit {
				out = append(out, at)
			}
		}
	}
	return out
}

// testEqual compares what is there with itself, with what differs in one byte, first and
// last, and where there is nothing, or less than was asked for.
func testEqual(t *testing.T, r mem.Reader, contents map[mem.Phys][]byte) {
	for at, b := range contents {
		if same, err := mem.Equal(r, b, at); !same || err != nil {
			t.Errorf("at %v: equal %v, %v", at, same, err)
		}
		for _, i := range []int{0, len(b) - 1} {
			other := bytes.Clone(b)
			other[i]++
			if same, err := mem.Equal(r, other, at); same || err != nil {
				t.Errorf("at %v, other in byte %d: equal %v, %v", at, i, same, err)
			}
		}
	}
	extents := r.Extents()
	for i, e := range extents {
		last := make([]byte, 16)
		if err := r.ReadPhys(last, e.End()-16); err != nil {
			t.Fatal(err)
		}
		if same, err := mem.Equal(r, last, e.End()-16); !same || err != nil {
			t.Errorf("last bytes of %v: equal %v, %v", e, same, err)
		}
		if i+1 < len(extents) && e.End()+16 > extents[i+1].Start {
			continue
		}
		for _, n := range []int{16, 32} {
			if same, err := mem.Equal(r, append(last, last...)[:n], e.End()+16-mem.Phys(n)); same || !errors.Is(err, mem.ErrNotMapped) {
				t.Errorf("%d bytes up to behind %v: equal %v, %v", n, e.End(), same, err)
			}
		}
	}
	if same, err := mem.Equal(r, nil, extents[0].Start); !same || err != nil {
		t.Errorf("nothing: equal %v, %v", same, err)
	}
}

func testConcurrent(t *testing.T, r mem.Reader) {
	e := r.Extents()[0]
	want := make([]byte, min(e.Size, mem.PageSize))
	if err := r.ReadPhys(want, e.Start); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			got := make([]byte, len(want))
			for range 50 {
				if err := r.ReadPhys(got, e.Start); err != nil || !bytes.Equal(got, want) {
					t.Errorf("concurrent read differs (%v)", err)
					return
				}
			}
		})
	}
	wg.Wait()
}
