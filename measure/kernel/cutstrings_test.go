package kernel

import (
	"bytes"
	"testing"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// TestTextsTakenApartAtBoot: a Skylake server has NULs in place of the commas of
// what resctrl leaves out there; nothing else of the text may differ, nor a comma
// of another text.
func TestTextsTakenApartAtBoot(t *testing.T) {
	k := newTestKernel()
	k.rodata = []byte("\x00one,two\x00!cmt,!mbmtotal,!mbmlocal,!l3cat\x00")
	e := NewExpected(k.image(t), testSlide, PatchFacts{})
	r := e.Rodata()
	text := bytes.Index(r.want(), []byte("!cmt,"))
	page, first := text/mem.PageSize, text%mem.PageSize
	for name, c := range map[string]struct {
		at   []int // bytes behind the start of the text
		to   byte
		want int
	}{
		"none":           {nil, 0, 0},
		"all":            {[]int{4, 14, 24}, 0, 0},
		"another value":  {[]int{4}, 'x', 1},
		"a letter":       {[]int{5}, 0, 1},
		"another text's": {[]int{-5}, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			seen := bytes.Clone(r.want())
			for _, at := range c.at {
				seen[text+at] = c.to
			}
			if d := r.Compare(page, seen[page*mem.PageSize:(page+1)*mem.PageSize]); len(d) != c.want {
				t.Errorf("differences: %+v", d)
			}
			p, err := e.PortableRodata(func(page int) []byte { return r.want()[page*mem.PageSize : (page+1)*mem.PageSize] })
			if err != nil {
				t.Fatal(err)
			}
			// A reference leaves the three bytes out, whatever they are.
			if same := p.Same(page, seen[page*mem.PageSize:(page+1)*mem.PageSize], testSlide); same != (c.want == 0 || c.at[0] == 4) {
				t.Errorf("same as the reference of a machine that left the text whole: %v", same)
			}
		})
	}
	if r.want()[page*mem.PageSize+first+4] != ',' {
		t.Error("the test's text has no comma there")
	}
}
