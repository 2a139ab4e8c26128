package kernel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// portableKernel has an address in its text, a runtime constant and a return.
func portableKernel(t testing.TB) *Image {
	k := newTestKernel()
	for i, at := range []uint64{0x100, 0x1100} {
		binary.LittleEndian.PutUint32(k.text[at:], uint32((testRodata+uint64(i)*8)&0xffffffff))
		k.abs32 = append(k.abs32, testBase+at)
	}
	at := fn(20)
	k.code(at, jump(at, fn(6))...)
	relativeSection(".return_sites")(k, at)
	k.merged("__start_runtime_ptr_dentry_hashtable", "__stop_runtime_ptr_dentry_hashtable", relative(k.next, fn(22)))
	return k.image(t)
}

// run is the memory of that kernel after a boot.
func run(img *Image, slide, hashtable uint64) (*Expected, []byte) {
	e := NewExpected(img, slide, PatchFacts{Constants: map[string]uint64{"dentry_hashtable": hashtable}})
	seen := bytes.Clone(e.kernel.want())
	copy(seen[fn(20)-testBase:], []byte{0xc3, 0xcc, 0xcc, 0xcc, 0xcc})
	binary.LittleEndian.PutUint64(seen[fn(22)-testBase:], hashtable)
	return e, seen
}

func pagesOf(seen []byte) func(int) []byte {
	return func(i int) []byte { return seen[i*mem.PageSize : (i+1)*mem.PageSize] }
}

func TestPortableVouchesForAnotherBoot(t *testing.T) {
	img := portableKernel(t)
	e, seen := run(img, 0x1200000, 0xffff888001000000)
	p, err := e.PortableText(pagesOf(seen))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Validate(); err != nil {
		t.Fatal(err)
	}
	const slide = 0x3a00000
	_, other := run(img, slide, 0xffff888004560000)
	for i := range p.Pages() {
		if !p.Same(i, pagesOf(other)(i), slide) {
			t.Errorf("page %d of another boot differs", i)
		}
	}
	if p.Same(0, pagesOf(other)(0), slide+0x200000) {
		t.Error("the slide makes no difference")
	}
	other[0x20] ^= 1
	other[0x1100] ^= 1
	for i := range p.Pages() {
		if p.Same(i, pagesOf(other)(i), slide) {
			t.Errorf("page %d with a flipped bit is the same", i)
		}
	}
	r, err := e.PortableRodata(pagesOf(e.Rodata().want()))
	if err != nil || r.Covered() > int64(r.Pages())*mem.PageSize || !r.Same(0, NewExpected(img, slide, PatchFacts{}).Rodata().want()[:4096], slide) {
		t.Errorf("rodata: %v, %v", r, err)
	}
}

func TestPortableTextRefuses(t *testing.T) {
	img := portableKernel(t)
	e, seen := run(img, 0, 1)
	seen[0x30] ^= 1
	if p, err := e.PortableText(pagesOf(seen)); p != nil || !errors.Is(err, ErrNotPortable) {
		t.Errorf("changed text: %v, %v", p, err)
	}
	if p, err := e.PortableText(func(int) []byte { return nil }); p != nil || !errors.Is(err, ErrNotPortable) {
		t.Errorf("no pages: %v, %v", p, err)
	}
}

func TestPortableValidate(t *testing.T) {
	digests := make([]byte, 64)
	for name, p := range map[string]Portable{
		"no digests":            {},
		"part of a digest":      {Digests: digests[:33]},
		"field past the end":    {Digests: digests, Fields: []Field{{Off: 8190}}},
		"field over two pages":  {Digests: digests, Fields: []Field{{Off: 4094}}},
		"field of unknown kind": {Digests: digests, Fields: []Field{{Off: 0, Kind: 3}}},
		"fields out of order":   {Digests: digests, Fields: []Field{{Off: 8}, {Off: 0}}},
		"mask past the end":     {Digests: digests, Masked: []Gap{{Off: 8000, Size: 4096}}},
		"link address":          {Digests: digests, Link: 1},
	} {
		if err := p.Validate(); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
