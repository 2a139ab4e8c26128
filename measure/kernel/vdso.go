package kernel

import (
	"bytes"

	"github.com/plumbline-sec/plumbline/internal/bin"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// VDSO is one of the images that the kernel maps into every process.
type VDSO struct {
	*Text // its name is that of the kernel's symbol for it
}

// VDSONames returns the symbols of struct vdso_image in kernels of any age.
func VDSONames() []string { return vdsoImages }

// vdsoImages are the symbols of struct vdso_image: up to 6.16 and later.
var vdsoImages = []string{"vdso_image_64", "vdso_image_x32", "vdso_image_32", "vdso64_image", "vdsox32_image", "vdso32_image"}

// maxVDSO bounds an image, in bytes; they have two or three pages.
const maxVDSO = 1 << 20

// VDSOs returns what the images should hold. They lie in the part of the
// read-only data that is set at boot, because the kernel applies their
// alternatives then: struct vdso_image starts with their address, size, and the
// place and length of their own table (arch/x86/include/asm/vdso.h).
func (e *Expected) VDSOs() []VDSO {
	var out []VDSO
	for _, name := range vdsoImages {
		at, ok := e.image.Symbols.Address(name)
		if !ok {
			continue
		}
		c := bin.Little(e.image.At(at, 32))
		addr, size, alt, altSize := c.U64(), c.U64(), c.U64(), c.U64()
		if c.Err() != nil || size == 0 || size > maxVDSO || size%mem.PageSize != 0 || alt > size || altSize > size-alt {
			continue
		}
		code := e.image.At(addr, int(size))
		if uint64(len(code)) != size || !bytes.HasPrefix(code, []byte("\x7fELF")) {
			continue
		}
		image := span{name, addr, code}
		o := &object{text: image, replacements: image}
		if o.build(&tables{alternatives: span{name, addr + alt, code[alt : alt+altSize]}}) != nil {
			continue
		}
		bytes := func() []byte { return code }
		out = append(out, VDSO{&Text{Name: name, Start: mem.Virt(addr + e.slide), Pages: int(size / mem.PageSize),
			obj: o, symbols: NewSymbols(nil), slide: e.slide, want: bytes, replacements: bytes}})
	}
	return out
}
