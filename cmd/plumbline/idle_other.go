//go:build !linux

package main

import (
	"errors"
	"fmt"
)

// readWhenIdle is for Linux.
func readWhenIdle() error { return fmt.Errorf("set I/O priority: %w", errors.ErrUnsupported) }
