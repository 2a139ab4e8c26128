//go:build linux

package vm

import (
	"errors"
	"os"
	"syscall"
	"time"
)

// stateOf looks at an image file.
func stateOf(path string, at time.Time) (imageState, error) {
	info, err := os.Stat(path)
	if err != nil {
		return imageState{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || !info.Mode().IsRegular() {
		return imageState{}, errors.New("what changed on " + path + " is not known: it is not a file")
	}
	return imageState{Path: absolute(path), Device: uint64(st.Dev), Inode: st.Ino, Size: info.Size(),
		Mtime: info.ModTime().UTC(), Ctime: time.Unix(st.Ctim.Unix()).UTC(), Seen: at.UTC()}, nil
}
