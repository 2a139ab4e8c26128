package xfs

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
)

// Replayed is a volume whose log is replaced by given transactions, for tests of
// what is in a log apart from how it is kept.
type Replayed struct {
	dev io.ReaderAt
	s   *super
}

// OpenReplayed reads the superblock of an image, and calls fn for each
// transaction of its log, as the operations of one record.
func OpenReplayed(r io.ReaderAt, size int64, fn func(ops []byte)) (*Replayed, error) {
	dev := newOverlay(r)
	s, err := readSuper(dev, size)
	if err != nil {
		return nil, err
	}
	v := &Volume{s: s, dev: dev}
	start, err := s.fsb(s.logStart)
	if err != nil {
		return nil, err
	}
	log := &ring{v: v, start: start, sectors: int64(s.logBlocks) * s.blockSize / logSector}
	first, last, _, err := log.span()
	if err != nil {
		return nil, err
	}
	a := &assembler{open: map[uint32]*transaction{}, commit: func(t *transaction) error {
		fn(t.operations())
		return nil
	}}
	return &Replayed{r, s}, log.walk(first, last, a.record)
}

// operations writes a transaction as it stands in a record.
func (t *transaction) operations() []byte {
	var b []byte
	op := func(flags byte, data []byte) {
		b = be.AppendUint32(b, 1)
		b = be.AppendUint32(b, uint32(len(data)))
		b = append(append(b, clientTransaction, flags, 0, 0), data...)
	}
	op(opStart, nil)
	op(0, t.header)
	for _, i := range t.items {
		for _, r := range i.regions {
			op(0, r)
		}
	}
	op(opCommit, nil)
	return b
}

// EmptyBuffer is a transaction that logs a buffer of no sectors.
func EmptyBuffer() []byte {
	header := le.AppendUint32(nil, transactionMagic)
	format := make([]byte, 24)
	le.PutUint16(format, itemBuffer)
	le.PutUint16(format[2:], 1)
	le.PutUint64(format[8:], 64)
	t := &transaction{header: append(header, make([]byte, 12)...), items: []*item{{regions: [][]byte{format}}}}
	return t.operations()
}

// Replay replays the operations of one record, then reads each inode that it
// changed. It gives the count of its transactions and how many of those inodes
// read without an error; what is neither an answer nor an error is a broken one.
func (r *Replayed) Replay(ops []byte, lsn uint64) (transactions, sound int, err, broken error) {
	rec := &record{lsn: lsn, data: ops}
	for b := ops; len(b) >= 12 && int64(be.Uint32(b[4:])) <= int64(len(b)-12); rec.ops++ {
		b = b[12+be.Uint32(b[4:]):]
	}
	v := &Volume{s: r.s, dev: newOverlay(r.dev)}
	p := &replayer{v: v, cancelled: map[extentKey]int{}, intents: map[uint64]*item{}}
	inodes := map[uint64]bool{}
	apply := func(t *transaction) error {
		for _, i := range t.items {
			if b := i.regions[0]; i.kind() == itemInode && len(b) >= 24 {
				inodes[le.Uint64(b[16:])] = true
			}
		}
		return p.apply(t)
	}
	for _, pass := range []func(*transaction) error{p.collect, apply} {
		a := &assembler{open: map[uint32]*transaction{}, commit: pass}
		if err := a.record(rec); err != nil {
			return p.transactions, 0, err, nil
		}
	}
	v.dev.order = slices.Sorted(maps.Keys(v.dev.sectors))
	if err := p.unfinished(); err != nil {
		return p.transactions, 0, err, nil
	}
	end := int64(r.s.blocks) * r.s.blockSize
	for n := range inodes {
		o, c, err := v.Object(n)
		if o == nil && err == nil {
			broken = errors.Join(broken, fmt.Errorf("inode %d is neither read nor an error", n))
		}
		for _, e := range c.Extents {
			if e.Length <= 0 || e.Physical >= 0 && e.Physical+e.Length > end {
				broken = errors.Join(broken, fmt.Errorf("inode %d has the extent %+v on a volume of %d bytes", n, e, end))
			}
		}
		if err == nil {
			sound++
		}
	}
	return p.transactions, sound, nil, broken
}

// Ring packs records into a log of so many sectors: each in a sector of headers
// and those of its data, in the first pass over the ring.
func Ring(sectors int, records ...[]byte) []byte {
	b := make([]byte, sectors*logSector)
	at := 0
	for _, data := range records {
		n := (len(data) + logSector - 1) / logSector
		h := b[at*logSector:]
		body := h[logSector:][:n*logSector]
		copy(body, data)
		be.PutUint32(h, logMagic)
		be.PutUint32(h[4:], 1)
		be.PutUint32(h[8:], 2)
		be.PutUint32(h[12:], uint32(len(data)))
		be.PutUint64(h[16:], 1<<32|uint64(at))
		be.PutUint64(h[24:], 1<<32)
		for i := range n {
			copy(h[44+4*i:48+4*i], body[i*logSector:])
			be.PutUint32(body[i*logSector:], 1)
		}
		at += 1 + n
	}
	SealRing(b)
	return b
}

// SealRing puts the checksums of a log's records right.
func SealRing(b []byte) {
	for at := 0; at+logSector <= len(b); at += logSector {
		h := b[at : at+logSector]
		n := int(be.Uint32(h[12:]))
		if be.Uint32(h) == logMagic && n <= len(b)-at-logSector {
			le.PutUint32(h[32:], recordSum(h, b[at+logSector:][:n], headerSum))
		}
	}
}

// Records are the data of the records that recovery of a log would read.
func Records(log io.ReaderAt, sectors int64) ([][]byte, error) {
	r := &ring{v: &Volume{s: &super{v5: true}, dev: newOverlay(log)}, sectors: sectors}
	first, last, cycle, err := r.span()
	if err != nil || cycle == 0 {
		return nil, err
	}
	var out [][]byte
	err = r.walk(first, last, func(rec *record) error {
		out = append(out, rec.data)
		return nil
	})
	return out, err
}
