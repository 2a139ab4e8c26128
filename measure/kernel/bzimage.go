package kernel

import (
	"bytes"
	"fmt"

	"github.com/plumbline-sec/plumbline/internal/bin"
)

// bzImagePayload returns the compressed kernel of a bzImage and the size it
// says it decompresses to. The header is that of boot protocol 2.08 or later
// (Documentation/arch/x86/boot.rst).
func bzImagePayload(file []byte) (payload []byte, size uint32, err error) {
	c := bin.Little(file)
	c.Seek(0x1f1)
	setup := int(c.U8()) // setup_sects
	c.Seek(0x202)
	if magic := c.Bytes(4); !bytes.Equal(magic, []byte("HdrS")) {
		return nil, 0, fmt.Errorf("%w: no boot header", ErrFormat)
	}
	if version := c.U16(); version < 0x208 { // 0x206
		return nil, 0, fmt.Errorf("%w: boot protocol %#x tells no payload", ErrFormat, version)
	}
	c.Seek(0x248)
	offset, length := c.U32(), c.U32() // payload_offset, payload_length
	if setup == 0 {
		setup = 4
	}
	c.Seek((setup + 1) * 512)
	c.Skip(int(min(offset, 1<<31-1)))
	payload = c.Bytes(int(min(length, 1<<31-1)))
	if c.Err() != nil {
		return nil, 0, fmt.Errorf("%w: payload: %w", ErrFormat, c.Err())
	}
	if len(payload) < 8 {
		return nil, 0, fmt.Errorf("%w: payload of %d bytes", ErrFormat, len(payload))
	}
	// The build appends the decompressed size (scripts/Makefile.lib,
	// size_append); gzip has it in its own trailer.
	last := bin.Little(payload[len(payload)-4:])
	return payload, last.U32(), nil
}
