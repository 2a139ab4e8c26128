package xen

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Explanation is what came of comparing text with the file.
type Explanation struct {
	Changed  int // bytes that differ from the file
	Sites    int // places that Xen had changed
	Findings []kernel.Difference
}

// maxFindings bounds what one text reports.
const maxFindings = 1000

// Explain compares the text of a running Xen, all of [Bounds.Text,
// Bounds.TextEnd), with the file's. Bytes that differ must lie in an alternative
// and be what Xen writes there; alternatives for one feature must all be applied
// or none of them; calls through one pointer must all go to one function.
func (img *Image) Explain(text []byte) (*Explanation, error) {
	want := img.At(img.bounds.Text, int(img.bounds.TextEnd-img.bounds.Text))
	if len(text) != len(want) {
		return nil, fmt.Errorf("%w: %d bytes of text, the file has %d", ErrLayout, len(text), len(want))
	}
	x := explainer{img: img, features: make(map[uint16]*vote), calls: make(map[mem.Virt]*call)}
	left := bytes.Clone(want)
	for i := range text {
		if text[i] != want[i] {
			x.out.Changed++
		}
	}
	for at := range img.sealed {
		from := at - img.bounds.Text
		if bytes.Equal(text[from:][:len(sealed)], sealed) {
			copy(left[from:], sealed)
		}
	}
	for i := range img.sites {
		s := &img.sites[i]
		from := int(s.at - img.bounds.Text)
		x.site(s, text[from:][:s.size])
		copy(left[from:], text[from:][:s.size]) // said all there is to say
	}
	x.disagreements()
	x.find(kernel.Runs(img.bounds.Text, text, left, "Xen patches nothing here: the bytes should be those of the file"))
	slices.SortFunc(x.out.Findings, func(a, b kernel.Difference) int { return bytes.Compare(be(a.Addr), be(b.Addr)) })
	return &x.out, nil
}

type explainer struct {
	img      *Image
	features map[uint16]*vote
	calls    map[mem.Virt]*call // by the pointer that they went through
	out      Explanation
}

// vote is at which sites a feature's alternative was applied.
type vote struct{ on, off []place }

// call is where direct calls that replaced calls through one pointer go.
type call struct{ places map[mem.Virt][]place }

type place struct {
	at  mem.Virt
	now []byte
}

func (x *explainer) find(list []kernel.Difference) {
	room := max(maxFindings-len(x.out.Findings), 0)
	x.out.Findings = append(x.out.Findings, list[:min(len(list), room)]...)
}

// site explains one site: later alternatives win over earlier ones, so the last
// whose bytes are there tells which features are on.
func (x *explainer) site(s *site, now []byte) {
	want := x.img.At(s.at, s.size)
	if !bytes.Equal(now, want) {
		x.out.Sites++
	}
	fits := make([]bool, len(s.alts))
	var any bool
	for i, a := range s.alts {
		fits[i] = x.applied(s, a, now)
		any = any || fits[i]
	}
	original := x.original(s, now, want)
	if !any && !original {
		x.find(kernel.Runs(s.at, now, want, "the bytes are none that Xen writes over this alternative"))
		return
	}
	x.cast(s, fits, original, now)
}

// original reports whether nothing was applied: the file's bytes, or these with
// the padding behind them turned into fewer, longer NOPs.
func (x *explainer) original(s *site, now, want []byte) bool {
	if bytes.Equal(now, want) {
		return true
	}
	code := s.alts[0].orig
	return bytes.Equal(now[:code], want[:code]) && kernel.IsPadding(now[code:])
}

// applied reports whether the bytes are those of an alternative: its replacement
// with a relative branch made to go to the same place, then NOPs.
func (x *explainer) applied(s *site, a alternative, now []byte) bool {
	repl := x.img.At(a.repl, a.size)
	if a.size > len(now) || !kernel.IsPadding(now[a.size:]) {
		return false
	}
	if a.size < 5 || repl[0]&0xfe != 0xe8 {
		return bytes.Equal(now[:a.size], repl)
	}
	if _, ok := x.pointer(s, a); ok {
		return x.direct(s, a, now)
	}
	want := bytes.Clone(repl)
	put32(want[1:], le32(want[1:])+uint32(a.repl-s.at))
	return bytes.Equal(now[:a.size], want)
}

// pointer returns through which pointer the original calls or jumps, "CALL *rel32
// (%RIP)", if the replacement stands for the direct call of where that pointer
// leads: one to itself.
func (x *explainer) pointer(s *site, a alternative) (at mem.Virt, ok bool) {
	repl, orig := x.img.At(a.repl, a.size), x.img.At(s.at, s.size)
	if a.size != 5 || a.orig < 6 || int32(le32(repl[1:])) != -5 || orig[0] != 0xff || orig[1] != map[byte]byte{0xe8: 0x15, 0xe9: 0x25}[repl[0]] {
		return 0, false
	}
	return s.at + 6 + mem.Virt(int64(int32(le32(orig[2:])))), true
}

// noCall is what Xen writes for a pointer that leads nowhere: UD2, UD0.
var noCall = []byte{0x0f, 0x0b, 0x0f, 0xff, 0xff}

// direct reports whether bytes are the direct call of a function, or the trap
// that stands for none. An ENDBR64 at its start is skipped (since 4.17).
func (x *explainer) direct(s *site, a alternative, now []byte) bool {
	if bytes.Equal(now[:5], noCall) {
		return true
	}
	return now[0] == x.img.At(a.repl, 1)[0] && x.target(s, now) != 0
}

// target returns the function that a direct call goes to, zero if it goes to
// none.
func (x *explainer) target(s *site, now []byte) mem.Virt {
	to := s.at + 5 + mem.Virt(int64(int32(le32(now[1:]))))
	if x.img.Function(to) {
		return to
	}
	if marked := to - mem.Virt(len(endbr64)); x.img.Function(marked) && bytes.Equal(x.img.At(marked, len(endbr64)), endbr64) {
		return marked
	}
	return 0
}

func put32(b []byte, v uint32) {
	b[0], b[1], b[2], b[3] = byte(v), byte(v>>8), byte(v>>16), byte(v>>24)
}

// cast counts what a site says of features, where it says so without doubt: the
// last alternative that fits is on, and those after it are off, if no other
// reading of the bytes is possible.
func (x *explainer) cast(s *site, fits []bool, original bool, now []byte) {
	p := place{s.at, now}
	last := -1
	for i, ok := range fits {
		if ok && last >= 0 || ok && original {
			return // ambiguous: two readings
		}
		if ok {
			last = i
		}
	}
	for i, a := range s.alts {
		switch {
		case i == last:
			x.vote(a.feature).on = append(x.vote(a.feature).on, p)
			if pointer, ok := x.pointer(s, a); ok && !bytes.Equal(now[:5], noCall) {
				x.call(pointer, x.target(s, now), p)
			}
		case i > last:
			x.vote(a.feature).off = append(x.vote(a.feature).off, p)
		}
	}
}

func (x *explainer) vote(feature uint16) *vote {
	if x.features[feature] == nil {
		x.features[feature] = &vote{}
	}
	return x.features[feature]
}

func (x *explainer) call(pointer, target mem.Virt, p place) {
	if x.calls[pointer] == nil {
		x.calls[pointer] = &call{places: make(map[mem.Virt][]place)}
	}
	c := x.calls[pointer]
	c.places[target] = append(c.places[target], p)
}

// disagreements finds the places where a feature is on and elsewhere is off, or
// where calls through one pointer go to different functions. The fewer are what
// is reported.
func (x *explainer) disagreements() {
	report := func(list []place, explanation string) {
		for _, p := range list {
			x.find([]kernel.Difference{{Addr: p.at, Observed: bytes.Clone(p.now), Expected: bytes.Clone(x.img.At(p.at, len(p.now))), Explanation: explanation}})
		}
	}
	for feature, v := range x.features {
		switch {
		case len(v.on) == 0 || len(v.off) == 0:
		case len(v.on) >= len(v.off):
			report(v.off, fmt.Sprintf("the alternative for feature %#x is not applied here, and is elsewhere", feature))
		default:
			report(v.on, fmt.Sprintf("the alternative for feature %#x is applied here, and is not elsewhere", feature))
		}
	}
	for pointer, c := range x.calls {
		var most int
		for _, places := range c.places {
			most = max(most, len(places))
		}
		kept := false
		for _, places := range c.places {
			if len(places) == most && !kept {
				kept = true
				continue
			}
			report(places, fmt.Sprintf("the call through %s goes to another function than elsewhere", x.img.Name(pointer)))
		}
	}
}
