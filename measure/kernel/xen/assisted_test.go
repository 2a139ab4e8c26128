package xen

import (
	"encoding/hex"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// assistedCode are the instructions that matter, of Debian's builds, with what
// lies between them left out or made short.
var assistedCode = map[string]struct {
	teardown, table, unpause, resume string
	want                             assistedLayout
}{
	"4.14": {
		"488b3b 4885ff 740c 48c70300000000 e800000000  498bbc2498070000 4885ff 7411 e800000000 49c784249807000000000000",
		"4889fd 4c8b6738 e800000000 8b4540 48837d2800 0f8500000000 4889ef 4883f8ff 0f8400000000 48894528 5b",
		"f0ff8b14020000 752b 488b4308 4885c0 7422 488b18 4885db 741a 4889df e800000000 488b5b18 4885db 75ef",
		"488b5bc9 e800000000 488b83c8050000 5b 415b fb 0f01d8 4883c488",
		assistedLayout{p2m: 0x798, back: 0x38, root: 0x28, vcpus: 8, next: 0x18, vmcbAt: 0x5c8},
	},
	"4.17": {
		"f6873c01000001 488bbbb8040000 4885ff 7410 e800000000 48c783b804000000000000",
		"4889fb 488b6f30 8b4718 837f3802 48837b5000 0f8500000000 4883f8ff 0f8400000000 83abd000000001 48894350 5b",
		"f0ff8b1c020000 7527 488b4308 4885c0 741e 488b18 4885db 7416 4889df e800000000 488b5b18 4885db 75ef",
		"488b83c8050000 5b fb f684248c00000008 7405 0f006c2454 0f01d8",
		assistedLayout{p2m: 0x4b8, back: 0x30, root: 0x50, vcpus: 8, next: 0x18, vmcbAt: 0x5c8},
	},
	"4.20": {
		"f6872c01000001 488bbb90040000 4885ff 7410 e800000000 48c7839004000000000000",
		"4889fb 488b6f28 8b4714 837f3002 48837b4800 0f8500000000 4883f8ff 0f8400000000 48894348 5b",
		"f0ff8b08020000 752f 488b4310 4885c0 7426 488b18 4885db 741e 4889df e800000000 488b5b20 4885db 75ef",
		"488b83c0050000 f6406801 7501 fb 488b83c8050000 5b fb 0f01d8",
		assistedLayout{p2m: 0x490, back: 0x28, root: 0x48, vcpus: 0x10, next: 0x20, vmcbAt: 0x5c8},
	},
}

func bytesOf(t testing.TB, code string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(code, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAssistedLayout(t *testing.T) {
	for version, test := range assistedCode {
		var got assistedLayout
		var ok [4]bool
		got.p2m, ok[0] = clearedPointer(bytesOf(t, test.teardown))
		got.back, got.root, ok[1] = tableMembers(bytesOf(t, test.table))
		got.vcpus, got.next, ok[2] = vcpuMembers(bytesOf(t, test.unpause))
		got.vmcbAt, ok[3] = vmrunOperand(bytesOf(t, test.resume))
		if ok != [4]bool{true, true, true, true} || got != test.want {
			t.Errorf("%s: %+v %v, want %+v", version, got, ok, test.want)
		}
	}
}

// Code that was cut short, or is of another kind, has no layout: it is no guess.
func TestAssistedLayoutRefuses(t *testing.T) {
	test := assistedCode["4.17"]
	for _, decode := range []struct {
		code string
		ok   func([]byte) bool
	}{
		{test.teardown, func(b []byte) bool { _, ok := clearedPointer(b); return ok }},
		{test.table, func(b []byte) bool { _, _, ok := tableMembers(b); return ok }},
		{test.unpause, func(b []byte) bool { _, _, ok := vcpuMembers(b); return ok }},
		{"488b83c8050000 5b 0f01d8", func(b []byte) bool { _, ok := vmrunOperand(b); return ok }},
	} {
		whole := bytesOf(t, decode.code)
		for n := range len(whole) - 2 { // what a jump leads to at the end is of no matter
			if decode.ok(whole[:n]) {
				t.Errorf("%x has a layout", whole[:n])
			}
		}
	}
	if _, _, ok := tableMembers(bytesOf(t, strings.Replace(test.table, "48894350 5b", "48894358", 1))); ok {
		t.Error("a table that is stored elsewhere than it is looked for has a layout")
	}
}

// FuzzAssistedLayout decodes code of a hostile Xen: what comes out lies in the
// first page of a structure.
func FuzzAssistedLayout(f *testing.F) {
	for _, test := range assistedCode {
		for _, code := range []string{test.teardown, test.table, test.unpause, test.resume} {
			f.Add(bytesOf(f, code))
		}
	}
	f.Fuzz(func(t *testing.T, code []byte) {
		p2m, ok0 := clearedPointer(code)
		back, root, ok1 := tableMembers(code)
		vcpus, next, ok2 := vcpuMembers(code)
		vmcb, ok3 := vmrunOperand(code)
		for _, at := range []struct {
			at mem.Virt
			ok bool
		}{{p2m, ok0}, {back, ok1}, {root, ok1}, {vcpus, ok2}, {next, ok2}, {vmcb, ok3}} {
			if at.ok && (at.at >= mem.PageSize || at.at%8 != 0) {
				t.Fatalf("offset %v", at.at)
			}
		}
	})
}
