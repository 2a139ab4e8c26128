package kernel

import (
	"bytes"
	"sync"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Rodata is the kernel's expected read-only data.
type Rodata struct {
	Start mem.Virt // page-aligned
	Pages int
	// SetAtBoot is the part that the kernel sets once before it makes the data
	// read-only, [__start_ro_after_init, __end_ro_after_init). The file says
	// nothing about it. It may be empty.
	SetAtBoot Area
	// Size is where the data ends: the rest of its last page is whatever the
	// decompressor left there.
	Size uint64

	want func() []byte // made when first needed
	cuts func() []int  // offsets of commas that may be NUL
}

// Rodata returns what the kernel's read-only data should hold.
func (e *Expected) Rodata() *Rodata {
	r := &Rodata{
		Start: mem.Virt(e.image.rodata.addr + e.slide), Pages: len(e.image.rodata.data) / mem.PageSize,
		SetAtBoot: Area{Kind: AreaROAfterInit}, Size: e.image.rodataEnd - e.image.rodata.addr,
		want: sync.OnceValue(func() []byte { return e.image.moved(e.image.rodata, e.slide) }),
		cuts: sync.OnceValue(func() []int { return cuts(e.image.rodata.data) }),
	}
	from, ok1 := e.image.Symbols.Address("__start_ro_after_init")
	to, ok2 := e.image.Symbols.Address("__end_ro_after_init")
	if ok1 && ok2 && from >= e.image.rodata.addr && to > from && to <= e.image.rodata.end() {
		r.SetAtBoot.Start, r.SetAtBoot.Size = mem.Virt(from+e.slide), to-from
	}
	return r
}

// Compare returns what differs in a page before the end and outside of
// [Rodata.SetAtBoot], but for texts that the kernel took apart at boot.
func (r *Rodata) Compare(page int, seen []byte) []Difference {
	if page < 0 || page >= r.Pages || len(seen) != mem.PageSize {
		return nil
	}
	at := r.Start + mem.Virt(page)*mem.PageSize
	want := r.want()[page*mem.PageSize : (page+1)*mem.PageSize]
	if bytes.Equal(seen, want) {
		return nil
	}
	want = bytes.Clone(want)
	if s := r.SetAtBoot; at < s.End() && s.Start < at+mem.PageSize {
		from, to := max(s.Start, at)-at, min(s.End(), at+mem.PageSize)-at
		copy(want[from:to], seen[from:to])
	}
	if end := r.Start + mem.Virt(r.Size); end < at+mem.PageSize {
		copy(want[max(end, at)-at:], seen[max(end, at)-at:])
	}
	for _, off := range r.cuts() {
		if off -= page * mem.PageSize; off >= 0 && off < mem.PageSize && seen[off] == 0 {
			want[off] = 0
		}
	}
	return runs(at, seen, want, "read-only data differs from the file")
}
