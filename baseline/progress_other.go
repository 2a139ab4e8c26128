//go:build !unix

package baseline

import "os"

// private is not known here.
func private(os.FileInfo) bool { return true }

func openPrivate(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
}
