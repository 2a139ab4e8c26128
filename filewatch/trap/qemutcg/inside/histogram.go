package inside

import (
	"math/bits"
	"time"
)

// histogram counts durations in quarter octaves of a nanosecond. On a machine
// whose processors are shared a mean says how often a thread was put aside; the
// median says what the work costs.
type histogram [64 * 4]uint64

func (h *histogram) add(d time.Duration) {
	n := uint64(max(d, 4))
	octave := bits.Len64(n) - 1
	h[octave*4+int(n>>(octave-2)&3)]++
}

// median is the lower bound of the bucket with the middle one.
func (h *histogram) median() time.Duration {
	var all uint64
	for _, n := range h {
		all += n
	}
	var seen uint64
	for i, n := range h {
		if seen += n; n > 0 && seen >= (all+1)/2 {
			return time.Duration(uint64(4+i%4) << (i / 4) >> 2)
		}
	}
	return 0
}
