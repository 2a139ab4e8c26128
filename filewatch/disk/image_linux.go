package disk

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// image is a raw image that knows its holes.
type image struct{ *os.File }

// NextData gives the first offset at or after off that may hold data, io.EOF
// when the rest is a hole. A file system without SEEK_DATA says that all is data.
func (i *image) NextData(off int64) (int64, error) {
	next, err := unix.Seek(int(i.Fd()), off, unix.SEEK_DATA)
	switch {
	case err == nil:
		return next, nil
	case errors.Is(err, unix.ENXIO):
		return 0, io.EOF
	}
	return off, nil
}
