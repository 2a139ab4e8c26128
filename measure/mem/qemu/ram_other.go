//go:build !linux

package qemu

import (
	"errors"
	"io/fs"
	"os"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Machines run on Linux hosts; elsewhere no file is known to be a machine's.
func (m mapping) of(fs.FileInfo) bool { return false }

func (p part) touched(out []mem.Extent) ([]mem.Extent, error) { return append(out, p.Extent), nil }

func openWindow(*os.File, int64, uint64) *window { return nil }

func (w *window) close() error     { return nil }
func (w *window) held(uint64) bool { return false }

func openDisks(int) []*os.File { return nil }
func flush([]*os.File)         {}

func memoryFile(string) (*os.File, error) { return nil, errors.ErrUnsupported }
