package check

import (
	"bytes"
	"testing"
)

func TestAlike(t *testing.T) {
	text := bytes.Repeat([]byte{0x55, 0x48, 0x89, 0xe5, 0}, 2000)
	const start = 0xffffffff82000100
	kept := make([]byte, 4096)
	copy(kept[0x100:], text)
	other := bytes.Repeat([]byte{0x11, 0x55}, 2048)
	for name, tt := range map[string]struct {
		page []byte
		kept bool
	}{
		"kept": {kept, true}, "overwritten": {bytes.Repeat([]byte{0xcc}, 4096), false},
		"zeros": {make([]byte, 4096), false}, "another's": {other, false},
	} {
		same, of := alike(tt.page, start-0x100, start, text)
		if of != 3072 || (same > of/2) != tt.kept {
			t.Errorf("%s: %d of %d", name, same, of)
		}
	}
	if _, of := alike(kept, start+0x100000, start, text); of != 0 {
		t.Errorf("behind the text: %d", of)
	}
}
