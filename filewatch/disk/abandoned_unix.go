//go:build unix

package disk

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// occupy marks a directory as one that is in use for as long as the file is open, and
// so at most until this process ends. Nil says that another came first and takes it
// away.
func occupy(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	has, err := lockOpen(f, dir)
	if !has || err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// clearAbandoned takes away the directories under one whose names begin with a prefix
// and that nobody occupies: those of scans that were killed. They are only those of
// this user, or of the one given. What cannot be removed is left: that is no reason not
// to scan.
func clearAbandoned(parent, prefix string, user int) {
	entries, _ := os.ReadDir(parent)
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), prefix) {
			continue
		}
		dir := filepath.Join(parent, e.Name())
		f, err := occupy(dir)
		if err != nil || f == nil {
			continue
		}
		if info, err := f.Stat(); err == nil && belongs(info, os.Geteuid(), user) {
			_ = removeAll(dir, "")
			_ = os.Remove(dir)
		}
		f.Close()
	}
}

func belongs(info os.FileInfo, users ...int) bool {
	s, ok := info.Sys().(*syscall.Stat_t)
	return ok && slices.Contains(users, int(s.Uid))
}
