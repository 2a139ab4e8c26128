//go:build linux

package vm

import (
	"fmt"
	"io/fs"
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
		return imageState{}, untold(path, info.Mode())
	}
	return imageState{Path: absolute(path), Device: uint64(st.Dev), Inode: st.Ino, Size: info.Size(),
		Mtime: info.ModTime().UTC(), Ctime: time.Unix(st.Ctim.Unix()).UTC(), Seen: at.UTC()}, nil
}

// untold says why nobody can tell what changed on something that is not a file. Of
// block devices the kernel counts writes (Documentation/block/stat.rst), but
// neither those of another host or through another device to the same blocks, nor
// commands passed through to the device, nor what still waits in its cache.
func untold(path string, mode fs.FileMode) error {
	if mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0 {
		return fmt.Errorf("nothing tells what was written to %s: a block device's times do not change with its content, and the kernel's count of writes leaves some out", path)
	}
	return fmt.Errorf("what changed on %s is not known: it is not a file", path)
}
