package ext4

import (
	"fmt"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// replayed is the outcome of reading the log.
type replayed struct {
	blocks       map[uint64]replaced
	revokes      map[uint64]uint32 // block to the last sequence that revokes it
	transactions int
	next         uint32 // the sequence after the last committed transaction
	damage       []error
}

// replay reads the log in the three passes of jbd2 (fs/jbd2/recovery.c): find
// the committed transactions, collect what they revoke, then what they write.
func (j *journal) replay() (*replayed, error) {
	r := &replayed{blocks: map[uint64]replaced{}, revokes: map[uint64]uint32{}, next: j.sequence}
	if j.start == 0 {
		return r, nil
	}
	if err := j.scan(r); err != nil {
		return r, err
	}
	if err := j.walk(r, j.revoke); err != nil {
		return r, err
	}
	return r, j.walk(r, j.write)
}

// scan finds how far the log is committed.
func (j *journal) scan(r *replayed) error {
	at, seq := j.start, j.sequence
	sum := ^uint32(0) // of checksum version 1, over a whole transaction
	for n := uint32(0); n < j.length; n++ {
		if err := j.read(at, j.buf); err != nil {
			return err
		}
		if be.Uint32(j.buf) != journalMagic || be.Uint32(j.buf[8:]) != seq {
			break
		}
		kind := be.Uint32(j.buf[4:])
		switch kind {
		case blockDescriptor:
			if !j.tailSum(j.buf) {
				j.stopped(r, at, seq, "descriptor")
				r.next = seq
				return nil
			}
			var err error
			at, n, err = j.scanData(at, n, &sum)
			if err != nil {
				return err
			}
		case blockCommit:
			if !j.commitSum(j.buf) || !j.wholeSum(j.buf, sum) {
				if j.incompat&journalAsyncCommit == 0 {
					j.stopped(r, j.next(at), seq+1, "commit")
				}
				r.next = seq
				return nil
			}
			sum = ^uint32(0)
			seq++
			r.transactions++
		case blockRevoke:
			if !j.tailSum(j.buf) {
				j.stopped(r, at, seq, "revoke")
				r.next = seq
				return nil
			}
		default:
			r.next = seq
			return nil
		}
		at = j.next(at)
	}
	r.next = seq
	return nil
}

// scanData passes over the data blocks of the descriptor in j.buf. It gives the
// last block it passed and the count of blocks so far.
func (j *journal) scanData(at, n uint32, sum *uint32) (uint32, uint32, error) {
	v1 := j.compat&journalCompatChecksum != 0 && !j.checksums
	if v1 {
		*sum = crc32be(*sum, j.buf)
	}
	for range j.tags(j.buf) {
		at = j.next(at)
		n++
		if !v1 || n >= j.length {
			continue
		}
		if err := j.read(at, j.data); err != nil {
			return at, n, err
		}
		*sum = crc32be(*sum, j.data)
	}
	return at, n, nil
}

// wholeSum verifies a transaction by checksum version 1 (0xC: type CRC32 is 1,
// 0xD: its size).
func (j *journal) wholeSum(b []byte, sum uint32) bool {
	if j.compat&journalCompatChecksum == 0 || j.checksums {
		return true
	}
	stored := be.Uint32(b[0x10:])
	return b[0xC] == 1 && b[0xD] == 4 && stored == sum || b[0xC] == 0 && b[0xD] == 0 && stored == 0
}

// stopped decides what a bad checksum means: a transaction that was being
// written when the picture was taken is the normal end of a log, one that was
// followed by committed ones is damage.
func (j *journal) stopped(r *replayed, at, seq uint32, what string) {
	for range j.length {
		if err := j.read(at, j.data); err != nil {
			break
		}
		if be.Uint32(j.data) == journalMagic && be.Uint32(j.data[4:]) == blockCommit && be.Uint32(j.data[8:]) == seq && j.commitSum(j.data) {
			r.damage = append(r.damage, fmt.Errorf("journal transaction %d and what followed are lost: %s block checksum: %w", seq, what, filewatch.ErrCorrupt))
			return
		}
		at = j.next(at)
	}
}

// walk calls fn for each descriptor and revoke block of the committed part.
// For a descriptor fn is called once per tag, with the journal block of its data.
func (j *journal) walk(r *replayed, fn func(r *replayed, seq uint32, t *tag, at uint32) error) error {
	at, seq := j.start, j.sequence
	for n := uint32(0); seq != r.next && n < j.length; n++ {
		if err := j.read(at, j.buf); err != nil {
			return err
		}
		switch be.Uint32(j.buf[4:]) {
		case blockDescriptor:
			for _, t := range j.tags(j.buf) {
				at = j.next(at)
				n++
				if err := fn(r, seq, &t, at); err != nil {
					return err
				}
			}
		case blockCommit:
			seq++
		case blockRevoke:
			if err := fn(r, seq, nil, at); err != nil {
				return err
			}
		}
		at = j.next(at)
	}
	return nil
}

// revoke collects the block numbers of a revoke block (0xC: bytes in use).
func (j *journal) revoke(r *replayed, seq uint32, t *tag, _ uint32) error {
	if t != nil {
		return nil
	}
	each, end := 4, len(j.buf)
	if j.incompat&journal64Bit != 0 {
		each = 8
	}
	if j.checksums {
		end -= 4
	}
	used := int(be.Uint32(j.buf[0xC:]))
	if used > end {
		r.damage = append(r.damage, fmt.Errorf("revoke block of journal transaction %d holds %d bytes: %w", seq, used, filewatch.ErrCorrupt))
		return nil
	}
	for at := 16; at+each <= used; at += each {
		block := uint64(be.Uint32(j.buf[at:]))
		if each == 8 {
			block = be.Uint64(j.buf[at:])
		}
		r.revokes[block] = seq
	}
	return nil
}

// write takes one data block over unless a later transaction revoked it.
func (j *journal) write(r *replayed, seq uint32, t *tag, at uint32) error {
	if t == nil {
		return nil
	}
	if by, ok := r.revokes[t.block]; ok && int32(by-seq) >= 0 {
		return nil
	}
	if t.block >= j.v.s.blocks {
		r.damage = append(r.damage, fmt.Errorf("journal transaction %d writes block %d of %d: %w", seq, t.block, j.v.s.blocks, filewatch.ErrCorrupt))
		return nil
	}
	if j.checksums {
		if err := j.read(at, j.data); err != nil {
			return err
		}
		if !j.dataSum(*t, seq, j.data) {
			r.damage = append(r.damage, fmt.Errorf("journal transaction %d: checksum of block %d: %w", seq, t.block, filewatch.ErrCorrupt))
			return nil
		}
	}
	from, err := j.block(at)
	if err != nil {
		return err
	}
	r.blocks[t.block] = replaced{block: t.block, from: from, escaped: t.flags&tagEscape != 0}
	return nil
}
