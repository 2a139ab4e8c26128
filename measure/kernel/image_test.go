package kernel

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestNewImage(t *testing.T) {
	k := newTestKernel()
	binary.LittleEndian.PutUint32(k.text[0x1000:], uint32(testRodata&0xffffffff))
	k.abs32 = []uint64{testBase + 0x1000}
	vmlinux := k.vmlinux()
	files := map[string][]byte{"vmlinux": vmlinux}
	for name, compress := range compressors {
		files[name] = bzImage(compress(t, vmlinux), len(vmlinux))
	}
	for name, file := range files {
		t.Run(name, func(t *testing.T) {
			img, err := NewImage(file, nil)
			if err != nil {
				t.Fatal(err)
			}
			if want := hex.EncodeToString([]byte("ABCDEFGHIJKLMNOPQRST")); img.BuildID != want || img.Release != "6.1.0-test" {
				t.Errorf("build-id %s, release %s", img.BuildID, img.Release)
			}
			if at, ok := img.Symbols.Address("fn2"); !ok || at != fn(2) {
				t.Errorf("fn2 at %#x", at)
			}
			if !bytes.Equal(img.At(testBase+0x40, 8), k.text[0x40:0x48]) {
				t.Error("At gives other bytes")
			}
			moved := img.moved(img.text, 0x1000000)
			if got := binary.LittleEndian.Uint32(moved[0x1000:]); got != uint32((testRodata+0x1000000)&0xffffffff) {
				t.Errorf("relocated word is %#x", got)
			}
		})
	}
}

func TestNewImageRefuses(t *testing.T) {
	vmlinux := newTestKernel().vmlinux()
	packed := compressors["gzip"](t, vmlinux)
	noSymbols := bytes.ReplaceAll(vmlinux, digits, bytes.Repeat([]byte{1}, len(digits)))
	for name, file := range map[string][]byte{
		"empty":              nil,
		"text":               []byte("not a kernel at all, but long enough to have an ELF magic"),
		"ELF header alone":   vmlinux[:64],
		"cut in the middle":  vmlinux[:len(vmlinux)/2],
		"no relocations":     vmlinux[:len(vmlinux)-12],
		"other machine":      append(append(bytes.Clone(vmlinux[:0x12]), 3, 0), vmlinux[0x14:]...),
		"no symbols":         noSymbols,
		"wrong size":         bzImage(packed, len(vmlinux)-1),
		"damaged payload":    bzImage(append(bytes.Clone(packed[:200]), packed[300:]...), len(vmlinux)),
		"payload is missing": bzImage(packed, len(vmlinux))[:1100],
		"unknown packing":    bzImage([]byte("BZh91AY&SY0000000"), 1),
	} {
		t.Run(name, func(t *testing.T) {
			img, err := NewImage(file, nil)
			if img != nil || !errors.Is(err, ErrFormat) && !errors.Is(err, ErrNoKallsyms) {
				t.Errorf("got %v, %v", img, err)
			}
		})
	}
}

func TestDecompressIsBounded(t *testing.T) {
	plain := make([]byte, 1<<20)
	for name, compress := range compressors {
		t.Run(name, func(t *testing.T) {
			packed := compress(t, plain)
			if _, err := decompress(packed, len(plain)-1); !errors.Is(err, ErrTooLarge) {
				t.Errorf("a byte too much: %v", err)
			}
			if out, err := decompress(packed, len(plain)); err != nil || !bytes.Equal(out, plain) {
				t.Errorf("%d bytes, %v", len(out), err)
			}
		})
	}
}

// TestUndoX86Filter reads a file that xz made with the filter from x86Sample:
//
//	xz -9 --x86 --lzma2 --check=crc32 testdata/x86
func TestUndoX86Filter(t *testing.T) {
	packed, err := os.ReadFile("testdata/x86.xz")
	if err != nil {
		t.Fatal(err)
	}
	out, err := decompress(packed, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(out, x86Sample()) {
		t.Error("the filter was not undone")
	}
}

// x86Sample is full of what the filter takes for branches, close to each other
// and far apart.
func x86Sample() []byte {
	out := make([]byte, 1<<13)
	state := uint32(1)
	for i := range out {
		state = state*1664525 + 1013904223
		out[i] = [...]byte{0xe8, 0xe9, 0x00, 0xff, byte(state >> 8), 0x00, 0x0f, 0x90}[state>>29]
	}
	return out
}

func TestImageCache(t *testing.T) {
	vmlinux := newTestKernel().vmlinux()
	file := bzImage(compressors["lz4"](t, vmlinux), len(vmlinux))
	dir := filepath.Join(t.TempDir(), "kernels")
	cache := imageCache{dir}
	check := func(when string) {
		t.Helper()
		if out, err := cache.vmlinux(file); err != nil || !bytes.Equal(out, vmlinux) {
			t.Fatalf("%s: %d bytes, %v", when, len(out), err)
		}
	}
	check("first")
	entries, err := filepath.Glob(filepath.Join(dir, "*.vmlinux"))
	if err != nil || len(entries) != 1 {
		t.Fatalf("cache holds %v, %v", entries, err)
	}
	check("from the cache")
	whole, err := os.ReadFile(entries[0])
	if err != nil {
		t.Fatal(err)
	}
	whole[len(whole)/2] ^= 1
	if err := os.WriteFile(entries[0], whole, 0o600); err != nil {
		t.Fatal(err)
	}
	check("after damage")
	if _, ok := readVerified(entries[0]); !ok {
		t.Error("a damaged entry was not replaced")
	}
}

func FuzzNewImage(f *testing.F) {
	vmlinux := newTestKernel().vmlinux()
	f.Add(vmlinux)
	for _, compress := range compressors {
		f.Add(bzImage(compress(f, vmlinux), len(vmlinux)))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		img, err := NewImage(in, nil)
		if (img == nil) == (err == nil) {
			t.Fatalf("value %v and error %v", img, err)
		}
		if img != nil && img.text.addr != 0 {
			e := NewExpected(img, 0x200000, PatchFacts{})
			page := make([]byte, 4096)
			e.Explain(e.Kernel(), []int{0}, func(int) []byte { return page })
			e.Rodata().Compare(0, page)
		}
	})
}
