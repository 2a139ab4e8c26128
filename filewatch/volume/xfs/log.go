package xfs

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/plumbline-sec/plumbline/filewatch"
)

var le = binary.LittleEndian

// The log: fs/xfs/libxfs/xfs_log_format.h. It is a ring of 512-byte sectors.
// Every sector starts with the number of the pass over the ring that wrote it,
// the cycle; what stood there before is kept in the record's header.
const (
	logMagic     = 0xFEEDBABE
	logSector    = 512
	headerSum    = 328       // bytes of the header under its checksum, on 64-bit machines
	headerSum32  = 324       // the same on i386
	extraSum     = 260       // bytes of an extra header
	cyclesPer    = 64        // sectors whose first word one header keeps
	maxLogRecord = 256 << 10 // XLOG_MAX_RECORD_BSIZE
	maxInFlight  = 8         // records that may be under way at once, XLOG_MAX_ICLOGS
)

// ring is the log as a ring of sectors.
type ring struct {
	v       *Volume
	start   int64
	sectors int64
	cache   []byte
	cached  int64 // first sector in cache
}

// record is one record of the log: the header's fields by offset.
type record struct {
	at      int64  // sector
	cycle   uint32 // 4
	version uint32 // 8
	length  uint32 // 12
	lsn     uint64 // 16
	tail    uint64 // 24
	ops     uint32 // 40
	headers int64  // sectors of headers
	end     int64  // sector after the record, not wrapped
	data    []byte // unpacked
}

func (r *ring) sector(n int64) ([]byte, error) {
	n %= r.sectors
	const many = 128
	if r.cache == nil || n < r.cached || n >= r.cached+int64(len(r.cache)/logSector) {
		first := n / many * many
		size := min(many, r.sectors-first) * logSector
		if int64(cap(r.cache)) < size {
			r.cache = make([]byte, many*logSector)
		}
		r.cache = r.cache[:size]
		if _, err := r.v.dev.dev.ReadAt(r.cache, r.start+first*logSector); err != nil {
			r.cache = nil
			return nil, fmt.Errorf("read log sector %d: %w", n, err)
		}
		r.cached = first
	}
	off := (n - r.cached) * logSector
	return r.cache[off : off+logSector], nil
}

// cycle is the cycle a sector was written in, 0 for never.
func (r *ring) cycle(n int64) (uint32, error) {
	b, err := r.sector(n)
	if err != nil {
		return 0, err
	}
	if be.Uint32(b) == logMagic {
		return be.Uint32(b[4:]), nil
	}
	return be.Uint32(b), nil
}

// head finds the sector that would be written next, and the cycle of what lies
// before it (xlog_find_head). 0, 0 is a log never written.
func (r *ring) head() (int64, uint32, error) {
	first, err := r.cycle(0)
	if err != nil || first == 0 {
		return 0, 0, err
	}
	last, err := r.cycle(r.sectors - 1)
	if err != nil {
		return 0, 0, err
	}
	if first == last {
		return r.hole(r.sectors, first)
	}
	lo, hi := int64(0), r.sectors-1 // cycle(lo) is first, cycle(hi) is not
	for hi-lo > 1 {
		mid := (lo + hi) / 2
		c, err := r.cycle(mid)
		if err != nil {
			return 0, 0, err
		}
		if c == first {
			lo = mid
		} else {
			hi = mid
		}
	}
	at, cycle, err := r.hole(hi, first)
	if over := maxInFlight*maxLogRecord/logSector - hi; err == nil && at == hi && over > 0 {
		// What was under way may reach back over the end of the ring.
		for n := max(hi, r.sectors-over); n < r.sectors; n++ {
			if c, err := r.cycle(n); err != nil || c != last {
				return n, last, err
			}
		}
	}
	return at, cycle, err
}

// hole moves the head before sectors that an interrupted write left out: writes
// that were under way together may have arrived in any order.
func (r *ring) hole(head int64, cycle uint32) (int64, uint32, error) {
	from := max(0, head-maxInFlight*maxLogRecord/logSector)
	for n := from; n < head; n++ {
		c, err := r.cycle(n)
		if err != nil {
			return 0, 0, err
		}
		if c != cycle {
			return n, cycle, nil
		}
	}
	return head, cycle, nil
}

// headers finds the last records before a sector, newest first.
func (r *ring) headers(head int64, most int) ([]record, error) {
	var out []record
	for n := head - 1; n > head-r.sectors && len(out) < most; n-- {
		at := (n + r.sectors) % r.sectors
		b, err := r.sector(at)
		if err != nil {
			return nil, err
		}
		if be.Uint32(b) != logMagic {
			continue
		}
		rec, err := r.parse(at, b)
		if err != nil {
			return nil, err
		}
		if rec.cycle == 0 {
			// In its first pass over the ring the log is cleared ahead by headers of
			// the pass before (xlog_clear_stale_blocks), in which nothing was written.
			break
		}
		out = append(out, rec)
	}
	return out, nil
}

// parse decodes a record's header.
func (r *ring) parse(at int64, b []byte) (record, error) {
	rec := record{
		at: at, cycle: be.Uint32(b[4:]), version: be.Uint32(b[8:]), length: be.Uint32(b[12:]),
		lsn: be.Uint64(b[16:]), tail: be.Uint64(b[24:]), ops: be.Uint32(b[40:]), headers: 1,
	}
	size := be.Uint32(b[320:])
	if rec.version&2 != 0 && size > 32<<10 && size <= maxLogRecord {
		rec.headers = int64(size+32<<10-1) / (32 << 10)
	}
	if rec.length > maxLogRecord || int64(uint32(rec.lsn)) != at || uint32(rec.lsn>>32) != rec.cycle {
		return rec, fmt.Errorf("log record at sector %d of %d bytes, LSN %#x: %w", at, rec.length, rec.lsn, filewatch.ErrCorrupt)
	}
	rec.end = at + rec.headers + (int64(rec.length)+logSector-1)/logSector
	return rec, nil
}

// load reads a record's data, verifies its checksum and puts the first words of
// the sectors back (xlog_unpack_data).
func (r *ring) load(rec *record) error {
	raw := make([]byte, (rec.end-rec.at)*logSector)
	for i := range rec.end - rec.at {
		b, err := r.sector(rec.at + i)
		if err != nil {
			return err
		}
		copy(raw[i*logSector:], b)
	}
	head, data := raw[:rec.headers*logSector], raw[rec.headers*logSector:]
	rec.data = data[:rec.length]
	stored := le.Uint32(head[32:])
	if stored != 0 || r.v.s.v5 && !rec.unmount() { // mkfs leaves an unmount record without a checksum
		if recordSum(head, data[:rec.length], headerSum) != stored && recordSum(head, data[:rec.length], headerSum32) != stored {
			return fmt.Errorf("log record at sector %d checksum: %w", rec.at, filewatch.ErrCorrupt)
		}
	}
	for i := 0; i*logSector < len(data); i++ {
		if h := i / cyclesPer; h == 0 {
			copy(data[i*logSector:][:4], head[44+4*i:])
		} else if off := h*logSector + 4 + 4*(i%cyclesPer); off+4 <= len(head) {
			copy(data[i*logSector:][:4], head[off:off+4])
		}
	}
	return nil
}

// recordSum is xlog_cksum.
func recordSum(head, data []byte, first int) uint32 {
	sum := crc32.Checksum(head[:32], castagnoli)
	sum = crc32.Update(sum, castagnoli, zero4[:])
	sum = crc32.Update(sum, castagnoli, head[36:first])
	for at := logSector; at < len(head); at += logSector {
		sum = crc32.Update(sum, castagnoli, head[at:at+extraSum])
	}
	return crc32.Update(sum, castagnoli, data)
}

// unmount says whether a record is the one that a clean unmount leaves: one
// operation with the unmount flag.
func (rec *record) unmount() bool {
	return rec.ops == 1 && len(rec.data) >= 12 && rec.data[9]&opUnmount != 0
}

// span finds the records that recovery has to read: from the tail that the last
// whole record names up to that record. None is a clean log.
func (r *ring) span() (first, last int64, cycle uint32, err error) {
	head, cycle, err := r.head()
	if err != nil || cycle == 0 {
		return 0, 0, 0, err
	}
	recs, err := r.headers(head, maxInFlight+1)
	if err != nil {
		return 0, 0, 0, err
	}
	var good *record
	for i := len(recs) - 1; i >= 0; i-- { // oldest first: the first torn one ends the log
		rec := &recs[i]
		end := head
		if rec.at >= head {
			end += r.sectors
		}
		if rec.end > end || r.load(rec) != nil {
			break
		}
		good = rec
	}
	if good == nil {
		return 0, 0, 0, fmt.Errorf("log has no whole record before sector %d: %w", head, filewatch.ErrCorrupt)
	}
	if good.unmount() {
		return 0, 0, 0, nil
	}
	tail := int64(uint32(good.tail))
	if tail >= r.sectors {
		return 0, 0, 0, fmt.Errorf("log tail at sector %d of %d: %w", tail, r.sectors, filewatch.ErrCorrupt)
	}
	last = good.at
	if last < tail {
		last += r.sectors
	}
	return tail, last, cycle, nil
}

// walk calls fn for each record from the sector first up to the one at last.
func (r *ring) walk(first, last int64, fn func(*record) error) error {
	for at := first; at <= last; {
		b, err := r.sector(at)
		if err != nil {
			return err
		}
		if be.Uint32(b) != logMagic {
			return fmt.Errorf("log sector %d is not the start of a record: %w", at%r.sectors, filewatch.ErrCorrupt)
		}
		rec, err := r.parse(at%r.sectors, b)
		if err == nil {
			err = r.load(&rec)
		}
		if err == nil {
			err = fn(&rec)
		}
		if err != nil {
			return err
		}
		at += rec.end - rec.at
	}
	return nil
}
