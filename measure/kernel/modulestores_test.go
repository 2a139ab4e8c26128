package kernel

import "testing"

// TestStoreTo tells assignments from other uses of a place.
func TestStoreTo(t *testing.T) {
	for name, tt := range map[string]struct {
		code   []byte
		at     uint64
		behind uint64
	}{
		"mov %rdi, object(%rip)":  {[]byte{0x48, 0x89, 0x3d, 0, 0, 0, 0}, 3, 4},
		"mov %r8, object(%rip)":   {[]byte{0x4c, 0x89, 0x05, 0, 0, 0, 0}, 3, 4},
		"movq $0, object(%rip)":   {[]byte{0x48, 0xc7, 0x05, 0, 0, 0, 0, 0, 0, 0, 0}, 3, 8},
		"mov object(%rip), %rdi":  {[]byte{0x48, 0x8b, 0x3d, 0, 0, 0, 0}, 3, 0},
		"movl $0, object(%rip)":   {[]byte{0x90, 0xc7, 0x05, 0, 0, 0, 0, 0, 0, 0, 0}, 3, 0},
		"movb $1, object(%rip)":   {[]byte{0x90, 0xc6, 0x05, 0, 0, 0, 0, 1}, 3, 0},
		"mov $object, %rdi":       {[]byte{0x48, 0xc7, 0xc7, 0, 0, 0, 0}, 3, 0},
		"outside of the section":  {[]byte{0x48, 0x89, 0x3d}, 1 << 40, 0},
		"at the section's start":  {[]byte{0x48, 0x89, 0x3d, 0, 0, 0, 0}, 0, 0},
		"where the section ends":  {[]byte{0x48, 0x89, 0x3d}, 3, 4},
		"none, the section empty": {nil, 3, 0},
	} {
		if behind, ok := storeTo(tt.code, tt.at); behind != tt.behind || ok != (tt.behind != 0) {
			t.Errorf("%s: %d, %v, want %d", name, behind, ok, tt.behind)
		}
	}
}
