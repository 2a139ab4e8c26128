package kernel

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
)

// The kernel of these tests: two pages of text with one function every 64
// bytes, read-only data with its symbols, and the tables of patch sites that a
// test asks for. Nothing of it comes from a real kernel.
const (
	testRodata = testBase + 0x200000
	testTables = testBase + 0x400000
	testVars   = testBase + 0x600000
)

// testKernel is a kernel under construction.
type testKernel struct {
	text     [8192]byte
	symbols  []Symbol
	sections []elfSection
	rodata   []byte // behind the symbols
	abs32    []uint64
	abs64    []uint64
	next     uint64 // where the next table goes
}

// newTestKernel has functions fn0, fn1 ... at their first 40 places, and those
// that kernels patch calls to.
func newTestKernel() *testKernel {
	k := &testKernel{next: testTables}
	for i := range k.text {
		k.text[i] = byte(i * 7) // any bytes that are not all the same
	}
	k.symbols = []Symbol{{testBase, 'T', "_text"}}
	for i, name := range []string{"fn0", "fn1", "fn2", "__fentry__", "ftrace_caller", "ftrace_call", "__x86_return_thunk",
		"srso_return_thunk", "__x86_indirect_thunk_rax", "__x86_indirect_thunk_r11", "__SCT__key", "nop_func", "_paravirt_ident_64", "__static_call_return0"} {
		k.symbols = append(k.symbols, Symbol{fn(i), 't', name})
	}
	k.symbols = append(k.symbols, Symbol{testBase + 8000, 'T', "_etext"}, Symbol{testRodata, 'D', "__start_rodata"})
	return k
}

// fn is the address of the i-th function.
func fn(i int) uint64 { return testBase + uint64(i)*64 }

// code puts bytes into the text.
func (k *testKernel) code(at uint64, b ...byte) { copy(k.text[at-testBase:], b) }

// section adds a table as a section and returns its address.
func (k *testKernel) section(name string, data []byte) uint64 {
	at := k.next
	k.sections = append(k.sections, elfSection{name: name, kind: 1, flags: shfAlloc, addr: at, data: data})
	k.next += (uint64(len(data)) + 0xfff) &^ 0xfff
	return at
}

// merged adds a table that only symbols delimit.
func (k *testKernel) merged(start, stop string, data []byte) uint64 {
	at := k.section(".init.data."+start, data)
	k.symbols = append(k.symbols, Symbol{at, 'd', start}, Symbol{at + uint64(len(data)), 'd', stop})
	return at
}

// relative is an entry of a table of 32-bit distances at an address.
func relative(at uint64, targets ...uint64) []byte {
	var out []byte
	for _, t := range targets {
		out = binary.LittleEndian.AppendUint32(out, uint32(t-at-uint64(len(out))))
	}
	return out
}

// vmlinux assembles the file.
func (k *testKernel) vmlinux() []byte {
	notes := []byte("\x04\x00\x00\x00\x14\x00\x00\x00\x03\x00\x00\x00GNU\x00ABCDEFGHIJKLMNOPQRST")
	banner := append([]byte("Linux version 6.1.0-test (someone)\n"), 0)
	symbols := append(k.symbols, Symbol{testRodata + 8, 'D', "linux_banner"}, Symbol{testRodata + 0x8000, 'D', "__end_rodata"})
	rodata := append(pad8(append(make([]byte, 8), banner...)), encodeKallsyms(NewSymbols(symbols).list(), false)...)
	rodata = append(rodata, k.rodata...)
	sections := append([]elfSection{
		{},
		{name: ".text", kind: 1, flags: shfAlloc | shfExec, addr: testBase, data: k.text[:]},
		{name: ".rodata", kind: 1, flags: shfAlloc, addr: testRodata, data: append(rodata, make([]byte, 0x7800-len(rodata))...)},
		{name: ".notes", kind: 7, flags: shfAlloc, addr: testRodata + 0x7800, data: notes},
	}, k.sections...)
	out := encodeELF(sections)
	for _, table := range [][]uint64{k.abs64, nil, k.abs32} {
		out = binary.LittleEndian.AppendUint32(out, 0)
		for _, at := range table {
			out = binary.LittleEndian.AppendUint32(out, uint32(at))
		}
	}
	return out
}

func (s *Symbols) list() []Symbol {
	var out []Symbol
	for sym := range s.All() {
		out = append(out, sym)
	}
	return out
}

// image is the finished kernel.
func (k *testKernel) image(t testing.TB) *Image {
	t.Helper()
	img, err := NewImage(k.vmlinux(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// encodeELF writes sections behind an ELF header, the header table last.
func encodeELF(sections []elfSection) []byte {
	out := make([]byte, 64)
	copy(out, "\x7fELF\x02\x01")
	binary.LittleEndian.PutUint16(out[0x12:], 62)
	names := []byte{0}
	sections = append(sections, elfSection{name: ".shstrtab", kind: 3})
	var headers []byte
	for i, s := range sections {
		name := len(names)
		names = append(append(names, s.name...), 0)
		if i == len(sections)-1 {
			s.data = names
		}
		h := make([]byte, 64)
		binary.LittleEndian.PutUint32(h, uint32(name))
		binary.LittleEndian.PutUint32(h[4:], s.kind)
		binary.LittleEndian.PutUint64(h[8:], s.flags)
		binary.LittleEndian.PutUint64(h[16:], s.addr)
		binary.LittleEndian.PutUint64(h[24:], uint64(len(out)))
		binary.LittleEndian.PutUint64(h[32:], max(s.size, uint64(len(s.data))))
		binary.LittleEndian.PutUint32(h[40:], s.link)
		binary.LittleEndian.PutUint32(h[44:], s.info)
		binary.LittleEndian.PutUint64(h[48:], max(s.align, 1))
		headers = append(headers, h...)
		out = append(out, s.data...)
	}
	binary.LittleEndian.PutUint64(out[0x28:], uint64(len(out)))
	binary.LittleEndian.PutUint16(out[0x3a:], 64)
	binary.LittleEndian.PutUint16(out[0x3c:], uint16(len(sections)))
	binary.LittleEndian.PutUint16(out[0x3e:], uint16(len(sections)-1))
	return append(out, headers...)
}

// bzImage wraps a compressed kernel as the boot protocol wants it.
func bzImage(payload []byte, size int) []byte {
	out := make([]byte, 1024)
	out[0x1f1] = 1
	copy(out[0x202:], "HdrS\x0f\x02")
	payload = binary.LittleEndian.AppendUint32(payload[:len(payload):len(payload)], uint32(size))
	binary.LittleEndian.PutUint32(out[0x248:], 16)
	binary.LittleEndian.PutUint32(out[0x24c:], uint32(len(payload)))
	return append(append(out, make([]byte, 16)...), payload...)
}

// compressors make what kernels are compressed with.
var compressors = map[string]func(t testing.TB, plain []byte) []byte{
	"gzip": func(t testing.TB, plain []byte) []byte {
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		w.Write(plain)
		w.Close()
		return out.Bytes()
	},
	"xz": func(t testing.TB, plain []byte) []byte {
		var out bytes.Buffer
		w, err := xz.NewWriter(&out)
		if err != nil {
			t.Fatal(err)
		}
		w.Write(plain)
		w.Close()
		return out.Bytes()
	},
	"zstd": func(t testing.TB, plain []byte) []byte {
		w, err := zstd.NewWriter(nil)
		if err != nil {
			t.Fatal(err)
		}
		return w.EncodeAll(plain, nil)
	},
	"lz4": func(t testing.TB, plain []byte) []byte {
		out := bytes.Clone(lz4Legacy)
		for len(plain) > 0 {
			n := min(len(plain), lz4LegacyBlock)
			block := make([]byte, lz4.CompressBlockBound(n))
			size, err := lz4.CompressBlock(plain[:n], block, nil)
			if err != nil || size == 0 {
				t.Fatalf("lz4: %d, %v", size, err)
			}
			out = binary.LittleEndian.AppendUint32(out, uint32(size))
			out = append(out, block[:size]...)
			plain = plain[n:]
		}
		return out
	},
}
