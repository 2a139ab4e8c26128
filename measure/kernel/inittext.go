package kernel

import (
	"errors"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

var errNoInitText = errors.New("the kernel's file has no text that runs at boot only")

// InitText is the text that runs at boot only, where its memory would be if the
// kernel kept it, before patching (_sinittext to _einittext).
func (e *Expected) InitText() (start mem.Virt, text []byte, err error) {
	s := e.image.between("_sinittext", "_einittext")
	if len(s.data) == 0 {
		return 0, nil, errNoInitText
	}
	return mem.Virt(s.addr + e.slide), e.image.moved(s, e.slide), nil
}
