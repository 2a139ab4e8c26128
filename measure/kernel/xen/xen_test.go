package xen_test

import (
	"bytes"
	"compress/gzip"
	"errors"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/measure/kernel/xen"
	"github.com/plumbline-sec/plumbline/measure/kernel/xen/xentest"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

func image(t testing.TB) *xen.Image {
	t.Helper()
	img, err := xen.NewImage(xentest.File())
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestImage(t *testing.T) {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	w.Write(xentest.File())
	w.Close()
	for name, file := range map[string][]byte{"as it is": xentest.File(), "gzipped": packed.Bytes()} {
		img, err := xen.NewImage(file)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if img.Release != "4.17.0-test" || img.BuildID != "6275696c642d69642d6f662d32302d6279746573" {
			t.Errorf("%s: release %q, build-id %q", name, img.Release, img.BuildID)
		}
		if n := img.Name(xentest.Base + xentest.Cold + 4); n != "cold+0x4" {
			t.Errorf("%s: name %q", name, n)
		}
	}
}

// What is not Xen's file is told apart from a Xen whose parts are elsewhere.
func TestImageRefuses(t *testing.T) {
	other := xentest.File()
	at := bytes.Index(other, []byte("idle_pg_table"))
	for name, test := range map[string]struct {
		file []byte
		want error
	}{
		"an empty file":         {nil, xen.ErrNotXen},
		"a 64-bit ELF":          {[]byte("\x7fELF\x02\x01\x01"), xen.ErrNotXen},
		"a cut gzip":            {[]byte{0x1f, 0x8b, 8}, xen.ErrNotXen},
		"no multiboot header":   {bytes.Replace(xentest.File(), []byte{0x02, 0xb0, 0xad, 0x1b}, make([]byte, 4), 1), xen.ErrNotXen},
		"a renamed alternative": {bytes.Replace(xentest.File(), []byte("__alt_instructions_end"), []byte("__alt_instructions_eng"), 1), xen.ErrLayout},
		"a file cut short":      {other[:at], xen.ErrNotXen},
	} {
		if _, err := xen.NewImage(test.file); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}

func TestProfile(t *testing.T) {
	m := xentest.Boot()
	if !xen.Runs(m, m.CPUs) {
		t.Fatal("not recognized")
	}
	p, err := xen.NewProfile(m, m.CPUs)
	if err != nil {
		t.Fatal(err)
	}
	img := image(t)
	if p.BuildID != img.BuildID || p.Release != img.Release || p.Phys != xentest.Phys || p.Symbols.Len() != img.Symbols.Len() {
		t.Errorf("profile %+v", p)
	}
	domains, err := p.Domains()
	if err != nil || len(domains) != 1 || domains[0] != (xen.Domain{At: xentest.DirectMap + mem.Virt(xentest.Domain), Listed: true, Hashed: true}) {
		t.Errorf("domains %+v, %v", domains, err)
	}
}

// A structure that does not hold together is refused, not guessed at.
func TestProfileRefuses(t *testing.T) {
	for name, change := range map[string]func(*xentest.Machine){
		"no build-id":              func(m *xentest.Machine) { clear(m.Image(0x7fc0)[:16]) },
		"no symbols":               func(m *xentest.Machine) { clear(m.Image(0x4000)[:0x2000]) },
		"page tables of elsewhere": func(m *xentest.Machine) { m.Put64(xentest.Page(0), 0x10_0000|xentest.Present) },
		"exceptions to data":       func(m *xentest.Machine) { m.Image(xentest.IDT)[1] = 0xd0 },
		"exceptions to a guest":    func(m *xentest.Machine) { m.Image(xentest.IDT)[8] = 0 },
	} {
		m := xentest.Boot()
		change(m)
		if p, err := xen.NewProfile(m, m.CPUs); err == nil {
			t.Errorf("%s: profile %v", name, p.BuildID)
		}
	}
	if _, err := xen.NewProfile(xentest.Boot(), nil); !errors.Is(err, xen.ErrNoRegisters) {
		t.Errorf("without registers: %v", err)
	}
}

// A list of domains that loops, or leads elsewhere, ends.
func TestDomainsRefuse(t *testing.T) {
	for name, next := range map[string]uint64{"a loop": uint64(xentest.DirectMap) + uint64(xentest.Domain), "nowhere": 0x1000} {
		m := xentest.Boot()
		m.Put64(xentest.Domain+0x88, next)
		p, err := xen.NewProfile(m, m.CPUs)
		if err != nil {
			t.Fatal(err)
		}
		if d, err := p.Domains(); !errors.Is(err, xen.ErrDomains) {
			t.Errorf("%s: %v, %v", name, d, err)
		}
	}
}

func TestExplain(t *testing.T) {
	img := image(t)
	for name, test := range map[string]struct {
		off  int
		code []byte
		want string // in the explanation of the only finding; empty for none
	}{
		"as it booted":                         {xentest.Cold, []byte{0x90}, ""},
		"a sealed function":                    {0x2380, []byte{0x66, 0x0f, 0x1f, 0x00}, ""},
		"code behind the end of text":          {xentest.Text + 8, []byte{0xc3}, "patches nothing here"},
		"code that nothing patches":            {xentest.Cold, []byte{0xc3}, "patches nothing here"},
		"an alternative with other code":       {xentest.Alternative, []byte{0x0f, 0x01, 0xcb}, "none that Xen writes"},
		"an alternative left out once":         {xentest.Alternative, []byte{0x90, 0x90, 0x90}, "feature 0x21"},
		"an alternative that is off elsewhere": {xentest.Untouched, []byte{0x0f, 0x01, 0xca}, ""},
		"a call into a function":               {xentest.Call, []byte{0xe8, 0xa3, 0x00, 0, 0, 0x90}, "none that Xen writes"},
		"a call to another function":           {xentest.Call, []byte{0xe8, 0x9b, 0x01, 0, 0, 0x90}, "goes to another function"},
		"a call with code behind":              {xentest.Call, []byte{0xe8, 0x1f, 0x02, 0, 0, 0xc3}, "none that Xen writes"},
	} {
		text := bytes.Clone(xentest.Boot().Image(0)[:xentest.Rodata])
		copy(text[test.off:], test.code)
		x, err := img.Explain(text)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case test.want == "" && len(x.Findings) > 0:
			t.Errorf("%s: %+v", name, x.Findings)
		case test.want != "" && (len(x.Findings) != 1 || !strings.Contains(x.Findings[0].Explanation, test.want)):
			t.Errorf("%s: %+v, want %q", name, x.Findings, test.want)
		}
	}
}

func TestStubs(t *testing.T) {
	img := image(t)
	stub := func(off int, code ...byte) error {
		b := bytes.Clone(xentest.Boot().RAM[xentest.StubPage:][:xen.StubEntry])
		copy(b[off:], code)
		return img.CheckStub(xentest.StubAt, b)
	}
	if err := stub(0); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"another target": stub(24, 0), "another stack": stub(15, 0), "other code": stub(10, 0x90), "code between": stub(28, 0x90), "no code": stub(0, bytes.Repeat([]byte{0xcc}, 64)...),
	} {
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzNewImage(f *testing.F) {
	f.Add(xentest.File())
	f.Add([]byte{0x1f, 0x8b, 8, 0})
	f.Fuzz(func(t *testing.T, file []byte) {
		img, err := xen.NewImage(file)
		if (img == nil) == (err == nil) {
			t.Fatalf("image %v, error %v", img, err)
		}
		if img == nil {
			return
		}
		b := img.Bounds()
		if x, err := img.Explain(bytes.Clone(img.At(b.Text, int(b.TextEnd-b.Text)))); err != nil || x == nil {
			t.Fatalf("the file's own text: %v, %v", x, err)
		}
	})
}

// FuzzProfile changes memory at a place: the profile is made or refused.
func FuzzProfile(f *testing.F) {
	f.Add(uint32(xentest.IDT), []byte{0xff})
	f.Add(uint32(0x4000), []byte{1, 2, 3, 4})
	f.Add(uint32(xentest.Phys)+0xa510, []byte{0xf8, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, off uint32, change []byte) {
		m := xentest.RunHVM()
		copy(m.RAM[int(off)%len(m.RAM):], change)
		p, err := xen.NewProfile(m, m.CPUs)
		if (p == nil) == (err == nil) {
			t.Fatalf("profile %v, error %v", p, err)
		}
		if p != nil {
			if d, err := p.Domains(); (d == nil) == (err == nil) && err != nil {
				t.Fatalf("domains %v, error %v", d, err)
			}
			if cpus, err := p.CPUs(); cpus != nil && err != nil {
				t.Fatalf("CPUs %v, error %v", cpus, err)
			}
			p.Kept()
		}
	})
}

func FuzzCheckStub(f *testing.F) {
	f.Add(xentest.Boot().RAM[xentest.StubPage:][:xen.StubEntry])
	img := image(f)
	f.Fuzz(func(_ *testing.T, code []byte) { _ = img.CheckStub(xentest.StubAt, code) })
}
