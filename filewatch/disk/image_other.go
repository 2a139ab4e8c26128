//go:build !linux

package disk

import "os"

type image struct{ *os.File }
