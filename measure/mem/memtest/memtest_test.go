package memtest

import (
	"testing"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

func TestPagesConform(t *testing.T) {
	p := make(Pages)
	p.Write(0x1ffe, 1, 2, 3, 4)
	p.Write(0x9000, 9)
	Test(t, p, Options{
		Extents: []mem.Extent{{Start: 0x1000, Size: 0x2000}, {Start: 0x9000, Size: 0x1000}},
		Bytes:   map[mem.Phys][]byte{0x1ffe: {1, 2, 3, 4}, 0x9000: {9, 0}},
	})
}
