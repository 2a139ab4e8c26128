package disk

import (
	"errors"
	"io"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// image is a raw image that knows its holes.
type image struct {
	*os.File
	last atomic.Pointer[dataRun]
}

// dataRun is a run of an image that held data when it was looked at. What of it has
// become a hole since reads as zeros all the same.
type dataRun struct{ from, to int64 }

// NextData gives the first offset at or after off that may hold data, io.EOF
// when the rest is a hole. A file system without SEEK_DATA says that all is data.
func (i *image) NextData(off int64) (int64, error) {
	if r := i.last.Load(); r != nil && r.from <= off && off < r.to {
		return off, nil
	}
	next, err := unix.Seek(int(i.Fd()), off, unix.SEEK_DATA)
	switch {
	case err == nil:
		if end, err := unix.Seek(int(i.Fd()), next, unix.SEEK_HOLE); err == nil {
			i.last.Store(&dataRun{next, end})
		}
		return next, nil
	case errors.Is(err, unix.ENXIO):
		return 0, io.EOF
	}
	return off, nil
}
