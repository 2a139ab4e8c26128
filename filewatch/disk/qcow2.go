package disk

import (
	"fmt"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/internal/bin"
)

// qcow2 is what the header of a qcow2 image says of other files (QEMU
// docs/interop/qcow2.txt, 7.2).
type qcow2 struct {
	below    string // backing file, "" for none
	format   string // of it, "" where that is not said
	external bool   // the data are in a file of their own
}

const (
	maxBackingName   = 1023       // bytes, QEMU's limit
	backingFormatExt = 0xE2792ACA // header extension with the name of a format
	maxFormatName    = 15         // bytes, QEMU's limit
)

// parseQcow2 reads a header of which the first headSize bytes are in hand, or the
// whole file where it is shorter.
func parseQcow2(head []byte) (*qcow2, error) {
	c := bin.Big(head)
	c.Skip(4)
	version := c.U32() // 0x04
	at := c.U64()      // 0x08
	length := c.U32()  // 0x10
	extensions := 72   // end of a version 2 header
	h := &qcow2{}
	if version >= 3 {
		c.Seek(0x48)
		h.external = c.U64()&(1<<2) != 0 // incompatible_features
		c.Seek(0x64)
		extensions = int(c.U32())
	}
	if c.Err() != nil || version < 2 || version > 3 {
		return nil, fmt.Errorf("qcow2 header of version %d, %d bytes in hand: %w", version, len(head), filewatch.ErrCorrupt)
	}
	if at == 0 {
		return h, nil
	}
	if length == 0 || length > maxBackingName || at > uint64(len(head)) || int(length) > len(head)-int(at) {
		return nil, fmt.Errorf("qcow2 header: backing file name of %d bytes at %#x: %w", length, at, filewatch.ErrCorrupt)
	}
	h.below = string(head[at : int(at)+int(length)])
	var err error
	if h.format, err = backingFormat(head[:at], extensions); err != nil {
		return nil, err
	}
	return h, nil
}

// backingFormat finds the format of the backing file among the header extensions,
// which lie between header and name: type, length, data in steps of 8 bytes. Type 0
// is the last.
func backingFormat(head []byte, at int) (format string, err error) {
	c := bin.Big(head)
	c.Seek(at)
	for c.Len() >= 8 {
		kind, length := c.U32(), c.U32()
		if kind == 0 {
			break
		}
		if int64(length) > int64(c.Len()) {
			return "", fmt.Errorf("qcow2 header extension %#x of %d bytes: %w", kind, length, filewatch.ErrCorrupt)
		}
		data := c.Bytes(int(length))
		if kind == backingFormatExt {
			if length > maxFormatName {
				return "", fmt.Errorf("qcow2 header: format name of %d bytes: %w", length, filewatch.ErrCorrupt)
			}
			format = string(data)
		}
		c.Skip(min(-int(length)&7, c.Len()))
	}
	if c.Err() != nil {
		return "", fmt.Errorf("qcow2 header extensions: %w: %w", c.Err(), filewatch.ErrCorrupt)
	}
	return format, nil
}
