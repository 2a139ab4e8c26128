package bin

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// ErrTooLong: a file has more bytes than one of its kind can have.
var ErrTooLong = errors.New("file is too long")

// ReadFile is [os.ReadFile] of a file that has at most limit bytes: a name can be
// that of a device without an end, or of a disk image by mistake. More is
// [ErrTooLong].
func ReadFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() && info.Size() > limit {
		return nil, tooLong(path, limit)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, tooLong(path, limit)
	}
	return data, nil
}

func tooLong(path string, limit int64) error {
	return fmt.Errorf("read %s: %w: more than %d bytes", path, ErrTooLong, limit)
}
