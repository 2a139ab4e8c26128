package volumetest

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// Unpack writes a compressed image out as a sparse file and gives its path.
func Unpack(tb testing.TB, name string) string {
	tb.Helper()
	in, err := os.Open(name)
	if err != nil {
		tb.Fatal(err)
	}
	defer in.Close()
	z, err := zstd.NewReader(in)
	if err != nil {
		tb.Fatal(err)
	}
	defer z.Close()
	path := filepath.Join(Dir(tb), "img")
	out, err := os.Create(path)
	if err != nil {
		tb.Fatal(err)
	}
	defer out.Close()
	b, zero := make([]byte, 64<<10), make([]byte, 64<<10)
	for off := int64(0); ; {
		n, err := io.ReadFull(z, b)
		if n > 0 && !bytes.Equal(b[:n], zero[:n]) {
			if _, err := out.WriteAt(b[:n], off); err != nil {
				tb.Fatal(err)
			}
		}
		off += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			if err := out.Truncate(off); err != nil {
				tb.Fatal(err)
			}
			return path
		}
		if err != nil {
			tb.Fatal(err)
		}
	}
}
