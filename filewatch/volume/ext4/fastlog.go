package ext4

import "fmt"

// Tags of fast-commit records (fs/ext4/fast_commit.h).
const (
	fastAddRange = 1
	fastDelRange = 2
	fastCreate   = 3
	fastLink     = 4
	fastUnlink   = 5
	fastInodeTag = 6
	fastPad      = 7
	fastTail     = 8
	fastHead     = 9
)

// fastRecord is one record: a 4-byte header, tag and length, then its value.
type fastRecord struct {
	tag   uint16
	value []byte
}

// fastLog reads the fast commits that follow the transaction before seq, up to
// the last whole one.
func (j *journal) fastLog(seq uint32) ([]fastRecord, error) {
	if j.fcFirst == 0 || j.start == 0 {
		return nil, nil
	}
	var all []fastRecord
	whole, sum := 0, uint32(0)
	for n := j.fcFirst; n < j.length; n++ {
		b := make([]byte, j.bs)
		if err := j.read(n, b); err != nil {
			return nil, fmt.Errorf("fast commits: %w", err)
		}
		if n == j.fcFirst && le.Uint16(b) != fastHead {
			return nil, nil
		}
		for len(b) >= 4 {
			r := fastRecord{tag: le.Uint16(b)}
			size := int(le.Uint16(b[2:]))
			if size > len(b)-4 || size < fastLeast(r.tag) {
				return all[:whole], nil
			}
			r.value = b[4 : 4+size]
			switch r.tag {
			case fastTail: // 0x0: transaction, 0x4: checksum of the records
				if le.Uint32(r.value) != seq || crc(sum, b[:8]) != le.Uint32(r.value[4:]) {
					return all[:whole], nil
				}
				sum, whole = 0, len(all)
			case fastHead: // 0x0: features, 0x4: transaction
				if le.Uint32(r.value) != 0 || le.Uint32(r.value[4:]) != seq {
					return all[:whole], nil
				}
				fallthrough
			default:
				sum = crc(sum, b[:4+size])
				all = append(all, r)
			}
			b = b[4+size:]
		}
	}
	return all[:whole], nil
}

// fastLeast is the least length of a record's value; unknown tags end the log.
func fastLeast(tag uint16) int {
	switch tag {
	case fastAddRange:
		return 16
	case fastDelRange:
		return 12
	case fastCreate, fastLink, fastUnlink:
		return 9
	case fastInodeTag:
		return 4 + 128
	case fastPad:
		return 0
	case fastTail, fastHead:
		return 8
	}
	return 1 << 16
}
