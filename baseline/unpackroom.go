package baseline

import "sync"

// unpackRoom bounds how much one capture unpacks of all rotations of all logs together,
// each of which may hold a thousand times what it has packed.
type unpackRoom struct {
	mu            sync.Mutex
	longest, used int64 // bytes
}

const (
	// maxUnpacked is how often the longest that the baseline has of each log may be
	// unpacked: as for two weeks of daily rotations.
	maxUnpacked = 16
	// leastUnpacked bytes may be unpacked however small the logs were.
	leastUnpacked = 64 << 20
	// mostLogs is no machine's logs, and does not overflow.
	mostLogs = 1 << 50
)

// grow has n more bytes looked for.
func (r *unpackRoom) grow(n int64) { r.longest = min(r.longest+n, mostLogs) }

// take says whether there was room for n bytes, which are taken.
func (r *unpackRoom) take(n int64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n > max(leastUnpacked, maxUnpacked*r.longest)-r.used {
		return false
	}
	r.used += n
	return true
}

func (r *unpackRoom) giveBack(n int64) {
	r.mu.Lock()
	r.used -= n
	r.mu.Unlock()
}
