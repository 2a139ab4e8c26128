package nbd

import "io"

// maxMany is how many requests are sent at a time.
const maxMany = 64

// ReadMany fills each of bufs from the offset beside it, as [io.ReaderAt] would.
// The requests are sent together, so that many small ones cost the server's work
// and not a wait for each. After an error any of bufs may hold anything.
func (c *Client) ReadMany(bufs [][]byte, offs []int64) error {
	ops := make([]*call, 0, min(len(bufs), maxMany))
	flush := func() error {
		if len(ops) == 0 {
			return nil
		}
		err := c.together(ops, func(op *call) (uint16, int64) { return cmdRead, int64(len(op.buf)) })
		ops = ops[:0]
		return err
	}
	for i, b := range bufs {
		off, n := offs[i], int64(len(b))
		if off < 0 || off > c.Size || n > c.Size-off {
			return io.ErrUnexpectedEOF
		}
		if n == 0 {
			continue
		}
		if n > maxRead || (off|n)&(c.least-1) != 0 { // it takes more than one request, or a wider one
			if _, err := c.ReadAt(b, off); err != nil {
				return err
			}
			continue
		}
		if ops = append(ops, &call{off: off, buf: b, left: len(b)}); len(ops) == maxMany {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}
