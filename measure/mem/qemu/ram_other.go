//go:build !linux

package qemu

import (
	"io/fs"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Machines run on Linux hosts; elsewhere no file is known to be a machine's.
func (m mapping) of(fs.FileInfo) bool { return false }

func (p part) touched(out []mem.Extent) ([]mem.Extent, error) { return append(out, p.Extent), nil }
