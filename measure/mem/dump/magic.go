package dump

import (
	"bytes"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// magicSize is how much of a file tells its format, in bytes.
const magicSize = 64

// minRaw is the least size of a raw image: the first megabyte of a PC is not
// where a kernel lies.
const minRaw = 2 << 20

// refused are the files that are taken for dumps most often.
var refused = []struct{ magic, what string }{
	{"QEVM", "a QEMU migration stream"},
	{"LibvirtQemud", "a libvirt save file (virsh dump needs --memory-only)"},
	{"PAGEDU64", "a Windows crash dump"},
	{"PAGEDUMP", "a Windows crash dump"},
	{"DISKDUMP", "a diskdump file"},
	{"QFI\xfb", "a qcow2 disk image"},
	{"\x1f\x8b", "compressed with gzip"},
	{"\xfd7zXZ", "compressed with xz"},
	{"\x28\xb5\x2f\xfd", "compressed with zstd"},
}

// recognise tells the format of a file from how it begins.
func recognise(head []byte, size uint64) (string, error) {
	starts := func(magic string) bool { return bytes.HasPrefix(head, []byte(magic)) }
	switch {
	case starts("\x7fELF"):
		return "elf", nil
	case starts(kdumpMagic):
		return "kdump", nil
	case starts(limeMagic):
		return "lime", nil
	}
	for _, r := range refused {
		if starts(r.magic) {
			return "", fmt.Errorf("%w: it is %s", ErrNotSupported, r.what)
		}
	}
	if size < minRaw || size%mem.PageSize != 0 {
		return "", fmt.Errorf("%w: neither ELF, kdump nor LiME, and %d bytes are no raw image", ErrFormat, size)
	}
	return "raw", nil
}
