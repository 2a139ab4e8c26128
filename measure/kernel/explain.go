package kernel

import (
	"bytes"
	"slices"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Difference is a run of bytes that are not, or not only, what the file says.
type Difference struct {
	Addr        mem.Virt
	Observed    []byte
	Expected    []byte // the file's bytes, or of several allowed encodings the nearest
	Explanation string
	// Follows says that it is at a call that follows what the kernel patches by: a
	// static call, its trampoline, or an entry that can be traced.
	Follows bool
}

// Explanation is what came of comparing pages of text.
type Explanation struct {
	Changed  int          // bytes that differ from the file
	Findings []Difference // what nothing explains
	Notes    []Difference // what is allowed and worth telling: tracing, probes
	// Uncompared are the modules that the kernel's own static calls lead into and of
	// which [Expected.Uncompared] has the text: what is called there is not known.
	Uncompared map[string]bool
	// Taken are the modules that lie where calls of [Expected.Orphan] lead to, which
	// are no starts of their functions.
	Taken map[string]bool
	// Told are the pages that a finding or a note is about, also those left out
	// for lack of room. What was judged clean and may be remembered is the rest.
	Told map[int]bool
	// Need lists pages that were not given although a patch site reaches into
	// them from one that was. The explanation is then incomplete.
	Need []int
}

// maxFindings bounds what one text reports: past it only the count matters.
const maxFindings = 1000

// Explain compares pages of text with what they should be and explains every
// byte that differs. observed returns a page's bytes by its number, nil if they
// are not known.
func (e *Expected) Explain(t *Text, pages []int, observed func(page int) []byte) *Explanation {
	x := &explainer{env: e, text: t, obj: t.obj, slide: t.slide, observed: observed,
		noted: make(map[uint64]bool), found: make(map[int]bool)}
	x.out.Told, x.out.Uncompared, x.out.Taken = make(map[int]bool), make(map[string]bool), make(map[string]bool)
	for _, p := range pages {
		if seen := observed(p); p < t.Pages && len(seen) == mem.PageSize {
			x.page(p, seen)
		}
	}
	return &x.out
}

type explainer struct {
	env      *Expected
	text     *Text
	obj      *object
	slide    uint64
	observed func(page int) []byte
	noted    map[uint64]bool
	found    map[int]bool // groups that were reported, by where they start
	out      Explanation
}

// page explains one page: each group of patch sites whose bytes changed is
// checked and, if allowed, taken over; what then still differs lies outside of
// every site.
func (x *explainer) page(page int, seen []byte) {
	lo := page * mem.PageSize
	want := x.text.want()[lo : lo+mem.PageSize]
	if bytes.Equal(seen, want) {
		return
	}
	x.out.Changed += changed(seen, want)
	left := append([]byte(nil), want...)
	seen = x.withoutCounters(lo, x.withoutProbes(lo, seen, want), want)
	for i := int(x.obj.first[page]); i < len(x.obj.sites); {
		next, end := x.obj.group(i)
		start := int(x.obj.sites[i].off)
		if start >= lo+mem.PageSize {
			break
		}
		from, to := max(start, lo)-lo, min(int(end), lo+mem.PageSize)-lo
		if !bytes.Equal(seen[from:to], want[from:to]) && x.group(i, next, start, int(end), lo, seen) {
			copy(left[from:to], seen[from:to])
		}
		i = next
	}
	x.find(runs(x.text.Start+mem.Virt(lo), seen, left, "no patch site is here: the bytes should be those of the file"))
}

// group explains the overlapping sites [i, next), which cover [start, end). It
// reports whether there is nothing more to say about these bytes.
func (x *explainer) group(i, next, start, end, lo int, seen []byte) bool {
	group := x.obj.sites[i:next]
	var now []byte
	if start >= lo && end <= lo+mem.PageSize {
		now = seen[start-lo : end-lo]
	} else if now = x.across(start, end, lo, seen); now == nil {
		return true // asked for
	}
	want := x.text.want()[start:end]
	if len(group) == 1 && x.quick(group[0], now) {
		return true
	}
	nearest := want
	for _, candidate := range x.candidates(group, start, want, now) {
		if bytes.Equal(candidate, now) {
			return true
		}
		if changed(candidate, now) < changed(nearest, now) {
			nearest = candidate
		}
	}
	x.tell(start, end-start)
	if !x.found[start] { // else the other page has said it
		x.found[start] = true
		differences := runs(x.text.Start+mem.Virt(start), now, nearest, names(group)+": the bytes are none that the kernel writes here")
		for i := range differences {
			differences[i].Follows = slices.ContainsFunc(group, site.follows)
		}
		x.find(differences)
	}
	return true
}

// follows says that what a site calls is not in the file.
func (s site) follows() bool {
	return s.kind == siteStaticCall || s.kind == siteTrampoline || s.kind == siteTrace
}

// quick recognizes the changes that make up nearly all: RET and NOP.
func (x *explainer) quick(s site, now []byte) bool {
	switch s.kind {
	case siteTrace:
		return bytes.Equal(now, []byte{0x0f, 0x1f, 0x44, 0, 0})
	case siteReturn:
		return len(now) == 5 && now[0] == opRet && allInt3(now[1:])
	}
	return false
}

// maxCandidates bounds the encodings tried for one group.
const maxCandidates = 512

// candidates returns every encoding that the patches of a group, each applied
// or not, in the kernel's order, may leave.
func (x *explainer) candidates(group []site, start int, want, now []byte) [][]byte {
	out := [][]byte{want}
	for kind := siteParavirt; kind < siteKinds; kind++ {
		for _, s := range group {
			if s.kind != kind || s.size == 0 {
				continue
			}
			from, to := int(s.off)-start, int(s.end())-start
			at := uint64(x.text.Start) + uint64(s.off)
			for _, cur := range out[:len(out):len(out)] {
				for _, v := range x.variants(s, at, cur[from:to:to], now[from:to:to]) {
					if len(v) == to-from && len(out) < maxCandidates {
						whole := append([]byte(nil), cur...)
						copy(whole[from:to], v)
						out = append(out, whole)
					}
				}
			}
		}
	}
	return out
}

// across returns the bytes of a group that reaches into neighbouring pages.
func (x *explainer) across(start, end, lo int, seen []byte) []byte {
	now := make([]byte, 0, end-start)
	for at := start; at < end; {
		page := at / mem.PageSize
		bytes := seen
		if page*mem.PageSize != lo {
			if bytes = x.observed(page); len(bytes) != mem.PageSize {
				x.out.Need = append(x.out.Need, page)
				return nil
			}
		}
		to := min(end, (page+1)*mem.PageSize)
		now = append(now, bytes[at-page*mem.PageSize:to-page*mem.PageSize]...)
		at = to
	}
	return now
}

// withoutProbes returns the page with the instructions that registered kprobes
// replaced put back, and notes them. What is in the slots of optimized ones is
// for ExplainSlots to say.
func (x *explainer) withoutProbes(lo int, seen, want []byte) []byte {
	out := x.env.withoutProbes(x.text.Start+mem.Virt(lo), seen)
	for _, k := range x.env.facts.Kprobes {
		off := int64(k.Addr-x.text.Start) - int64(lo)
		if off <= -5 || off >= int64(len(seen)) {
			continue
		}
		from, to := max(off, 0), min(off+5, int64(len(seen)))
		switch n := changed(seen[from:to], out[from:to]); {
		case n == 0: // disabled, or ftrace's
		case off >= 0 && seen[off] == opInt3:
			x.note(uint64(k.Addr), seen[off:off+1], "breakpoint of a registered kprobe")
		default:
			x.note(uint64(x.text.Start)+uint64(lo)+uint64(from), seen[from:to], "jump of an optimized kprobe to its slot")
		}
	}
	return out
}

func (x *explainer) note(at uint64, observed []byte, explanation string) {
	off := at - uint64(x.text.Start)
	x.tell(int(off), len(observed))
	if x.noted[at] || len(x.out.Notes) >= maxFindings {
		return
	}
	x.noted[at] = true
	x.out.Notes = append(x.out.Notes, Difference{Addr: mem.Virt(at), Observed: bytes.Clone(observed),
		Expected: bytes.Clone(x.text.want()[off : off+uint64(len(observed))]), Explanation: explanation})
}

// tell marks the pages of n bytes of the text.
func (x *explainer) tell(off, n int) {
	for page := off / mem.PageSize; page <= (off+max(n, 1)-1)/mem.PageSize; page++ {
		x.out.Told[page] = true
	}
}

// find adds findings, as far as there is room.
func (x *explainer) find(list []Difference) {
	for _, d := range list {
		x.tell(int(d.Addr-x.text.Start), len(d.Observed))
	}
	room := max(maxFindings-len(x.out.Findings), 0)
	x.out.Findings = append(x.out.Findings, list[:min(len(list), room)]...)
}

// runs returns a difference for each run of bytes that differ; runs that are
// less than 8 bytes apart are one.
func runs(at mem.Virt, seen, want []byte, explanation string) []Difference {
	var out []Difference
	for i := 0; i < len(seen); i++ {
		if seen[i] == want[i] {
			continue
		}
		end := i + 1
		for j := end; j < len(seen) && j < end+8; j++ {
			if seen[j] != want[j] {
				end = j + 1
			}
		}
		out = append(out, Difference{Addr: at + mem.Virt(i), Observed: bytes.Clone(seen[i:end]),
			Expected: bytes.Clone(want[i:end]), Explanation: explanation})
		i = end
	}
	return out
}

// changed counts the bytes that differ.
func changed(a, b []byte) int {
	n := 0
	for i := range a {
		if a[i] != b[i] {
			n++
		}
	}
	return n
}

// names lists the kinds of a group.
func names(group []site) string {
	var out string
	for i, s := range group {
		if i > 0 && s.kind == group[i-1].kind {
			continue
		}
		if out != "" {
			out += ", "
		}
		out += s.kind.String()
	}
	return out
}

// insideOf returns the sites within a range of the replacements.
func (o *object) insideOf(start, size uint32) []site {
	var out []site
	for _, s := range o.inside {
		if s.off >= start && s.size > 0 && s.end() <= start+size {
			out = append(out, s)
		}
	}
	return out
}
