//go:build !linux

package tree

import (
	"context"
	"io"

	"github.com/plumbline-sec/plumbline/filewatch"
)

type root struct{}

// Open fails: see [ErrNotSupported].
func Open(string) (*Tree, error) { return nil, ErrNotSupported }

// Close does nothing.
func (t *Tree) Close() error { return nil }

func (root) machineID() string { return "" }

func (root) walk(context.Context, *Tree, func(*item) error) error { return ErrNotSupported }

func (root) open(*filewatch.Object, string) (io.ReadCloser, error) { return nil, ErrNotSupported }
