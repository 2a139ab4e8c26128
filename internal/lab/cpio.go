package lab

import (
	"fmt"
	"io"
	"io/fs"
)

// cpioWriter writes an initramfs archive.
//
// Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst,
// "newc" format: a header of thirteen 8-digit hexadecimal numbers after the
// magic, then the name and the data, each padded to 4 bytes.
type cpioWriter struct {
	w   io.Writer
	ino int
	err error
}

func (c *cpioWriter) dir(name string) { c.entry(name, 0o040755, nil) }

func (c *cpioWriter) file(name string, mode fs.FileMode, data []byte) {
	c.entry(name, 0o100000|uint32(mode.Perm()), data)
}

func (c *cpioWriter) entry(name string, mode uint32, data []byte) {
	c.ino++
	c.printf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X",
		c.ino, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
	c.printf("%s\x00", name)
	c.pad(110 + len(name) + 1)
	c.printf("%s", data)
	c.pad(len(data))
}

func (c *cpioWriter) pad(n int) { c.printf("%s", make([]byte, -n&3)) }

// close ends the archive.
func (c *cpioWriter) close() error {
	c.entry("TRAILER!!!", 0, nil)
	return c.err
}

func (c *cpioWriter) printf(format string, args ...any) {
	if c.err == nil {
		_, c.err = fmt.Fprintf(c.w, format, args...)
	}
}
