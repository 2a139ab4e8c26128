package kernel

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

const (
	calledText = 0xffffffff81000000
	calledData = 0xffffffff82000000
	calledEnd  = calledData + 0x1000
)

// callFinderOf has text at calledText, variables in a page at calledData, and two
// thunks at the end of the text.
func callFinderOf(text []byte) *callFinder {
	return &callFinder{text: text, base: calledText, found: make(map[Called]bool), data: [][2]uint64{{calledData, calledEnd}},
		thunks: map[uint64]int{calledText + 0x800: 0, calledText + 0x840: 11}}
}

// load is MOV r64, [RIP+disp32] at an offset of the text.
func load(at, register int, variable uint64) []byte {
	code := []byte{0x48 | byte(register>>3<<2), 0x8b, 5 | byte(register&7)<<3}
	return binary.LittleEndian.AppendUint32(code, uint32(variable-calledText-uint64(at)-7))
}

func joinedCode(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

func TestCalled(t *testing.T) {
	const variable = calledData + 0x18
	direct := []Called{{At: variable}}
	thunk := func(at int) []byte { return branch(opCall, calledText+uint64(at), calledText+0x800) }
	test := []byte{0x48, 0x85, 0xc0, 0x74, 0x30}            // TEST RAX, RAX; JZ
	through := []byte{0x48, 0x8b, 0x40, 0x10}               // MOV RAX, [RAX+16]
	copied := []byte{0x49, 0x89, 0xc3}                      // MOV R11, RAX
	cleared := []byte{0x31, 0xc0}                           // XOR EAX, EAX
	called := []byte{opCall, 0, 1, 0, 0}                    // CALL elsewhere
	argument := []byte{0x48, 0x89, 0xdf, 0xf3, 0x90}        // MOV RDI, RBX; PAUSE, which is not among what may come between
	elsewhere := []byte{0x48, 0x8b, 0x04, 0xcb, 0xff, 0xd0} // MOV RAX, [RBX+RCX*8]; CALL RAX
	for name, tt := range map[string]struct {
		code []byte
		want []Called
	}{
		"a retpoline":                {joinedCode(load(0, 0, variable), thunk(7)), direct},
		"a test of it before":        {joinedCode(load(0, 0, variable), test, thunk(12)), direct},
		"a jump to a retpoline":      {joinedCode(load(0, 0, variable), branch(opJump, calledText+7, calledText+0x800)), direct},
		"no retpoline":               {joinedCode(load(0, 3, variable), []byte{0xff, 0xd3}), direct},
		"a high register":            {joinedCode(load(0, 11, variable), []byte{0x41, 0xff, 0xd3}), direct},
		"a fence":                    {joinedCode(load(0, 0, variable), []byte{0x0f, 0xae, 0xe8, 0xff, 0xd0}), direct},
		"a copy of it":               {joinedCode(load(0, 0, variable), copied, branch(opCall, calledText+10, calledText+0x840)), direct},
		"an object's function":       {joinedCode(load(0, 0, variable), through, thunk(11)), []Called{{At: variable, Object: true, Offset: 16}}},
		"an object's object's":       {joinedCode(load(0, 0, variable), through, through, thunk(15)), nil},
		"another register":           {joinedCode(load(0, 3, variable), thunk(7)), nil},
		"another value by then":      {joinedCode(load(0, 0, variable), cleared, thunk(9)), nil},
		"an element of an array":     {joinedCode(load(0, 0, variable), elsewhere), nil},
		"a call between":             {joinedCode(load(0, 0, variable), called, thunk(12)), nil},
		"what may do anything":       {joinedCode(load(0, 0, variable), argument, thunk(12)), nil},
		"a constant":                 {joinedCode(load(0, 0, calledText+0x100), thunk(7)), nil},
		"no word":                    {joinedCode(load(0, 0, variable+4), thunk(7)), nil},
		"after the last variable":    {joinedCode(load(0, 0, calledEnd), thunk(7)), nil},
		"a branch within the load":   {joinedCode(load(0, 0, variable)[:5], thunk(5)), nil},
		"text that ends with a load": {load(0, 0, variable), nil},
	} {
		t.Run(name, func(t *testing.T) {
			got := callFinderOf(tt.code).all()
			if len(got) == 0 {
				got = nil
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("% x: %s", tt.code, diff)
			}
		})
	}
}

// Thunks are named by the register that they branch through.
func TestThunkedBy(t *testing.T) {
	for name, want := range map[string]int{
		"__x86_indirect_thunk_rax": 0, "__x86_indirect_thunk_r15": 15, "__x86_indirect_call_thunk_rbx": 3,
		"__x86_indirect_its_thunk_r8": 8, "__x86_indirect_thunk_array": -1, "__x86_indirect_paranoid": -1,
	} {
		if got, ok := thunkedBy(name); ok != (want >= 0) || ok && got != want {
			t.Errorf("%s: %d %v, want %d", name, got, ok, want)
		}
	}
}

// FuzzCalled gives any text: what is found is a variable, and in order.
func FuzzCalled(f *testing.F) {
	f.Add(joinedCode(load(0, 0, calledData), []byte{0xff, 0xd0}))
	f.Add([]byte{0xff})
	f.Add(bytes.Repeat([]byte{0x48, 0x8b, 0x05, 0xff}, 40))
	f.Fuzz(func(t *testing.T, text []byte) {
		last := mem.Virt(0)
		for _, c := range callFinderOf(text).all() {
			if c.At < last || c.At < calledData || c.At >= calledEnd || c.At&7 != 0 || c.Offset >= maxCalledOffset || !c.Object && c.Offset != 0 {
				t.Errorf("%+v after %v", c, last)
			}
			last = c.At
		}
	})
}
