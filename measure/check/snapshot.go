package check

import (
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// maxWanted bounds what one scan reads while the target is paused, in bytes:
// 1 MiB takes about 0.2 ms.
const maxWanted = 4 << 20

var errNotWanted = errors.New("memory was not read at the pause")

// snapshot is memory to be read, then read, at the pause.
type snapshot struct {
	at    mem.Virt
	bytes []byte
	err   error
}

// want asks for size bytes at an address to be read while the target is paused.
func (c *collector) want(at mem.Virt, size uint64) error {
	if size > maxWanted-min(c.wantedBytes, maxWanted) {
		return fmt.Errorf("%d bytes at %v are too many to read at the pause", size, at)
	}
	c.wantedBytes += size
	c.snapshots = append(c.snapshots, &snapshot{at: at, bytes: make([]byte, size), err: errNotWanted})
	return nil
}

// wanted returns memory that was asked for with want.
func (c *collector) wanted(at mem.Virt, size uint64) ([]byte, error) {
	for _, s := range c.snapshots {
		if at >= s.at && uint64(at-s.at) <= uint64(len(s.bytes)) && size <= uint64(len(s.bytes))-uint64(at-s.at) {
			if s.err != nil {
				return nil, s.err
			}
			return s.bytes[at-s.at:][:size], nil
		}
	}
	return nil, fmt.Errorf("%d bytes at %v: %w", size, at, errNotWanted)
}

// take reads what was wanted.
func (c *collector) take() {
	for _, s := range c.snapshots {
		s.err = c.space.Read(s.bytes, s.at)
	}
}
