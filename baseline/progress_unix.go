//go:build unix

package baseline

import (
	"fmt"
	"os"
	"syscall"
)

// private says that nobody but this user and root can read or write a file.
func private(info os.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.Mode().IsRegular() && info.Mode().Perm()&0o077 == 0 && (int(st.Uid) == os.Geteuid() || st.Uid == 0)
}

// openPrivate opens or makes a file that is private.
func openPrivate(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && !private(info) {
		err = fmt.Errorf("%s: others may use it (mode %s)", path, info.Mode())
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
