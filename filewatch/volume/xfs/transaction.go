package xfs

import (
	"fmt"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Operation headers in a record: 0 transaction, 4 length, 8 client, 9 flags;
// 12 bytes.
const (
	opStart    = 0x01
	opCommit   = 0x02
	opContinue = 0x04
	opWasCont  = 0x08
	opEnd      = 0x10
	opUnmount  = 0x20

	clientTransaction = 0x69
	clientLog         = 0xaa

	transactionMagic  = 0x5452414e // TRAN
	transactionHeader = 16

	// maxPending bounds the bytes of transactions that are not committed yet.
	maxPending = 256 << 20
)

// item is one log item: its regions, the first of which says what it is.
type item struct {
	regions [][]byte
	total   int
}

// kind is the item's type (0x0 of every format structure, little-endian as
// written by the machines read here).
func (i *item) kind() uint16 { return le.Uint16(i.regions[0]) }

// transaction is one that is being put together from the log.
type transaction struct {
	lsn    uint64
	header []byte
	items  []*item
}

// assembler puts transactions together from operations.
type assembler struct {
	open    map[uint32]*transaction
	pending int
	commit  func(*transaction) error
}

// record takes the operations of one record (xlog_recover_process_data).
func (a *assembler) record(rec *record) error {
	b := rec.data
	for range rec.ops {
		if len(b) < 12 {
			return fmt.Errorf("log record at sector %d: operation header in %d bytes: %w", rec.at, len(b), filewatch.ErrCorrupt)
		}
		tid, n, client, flags := be.Uint32(b), be.Uint32(b[4:]), b[8], b[9]
		if client != clientTransaction && client != clientLog || int64(n) > int64(len(b)-12) {
			return fmt.Errorf("log record at sector %d: operation of client %#x with %d bytes: %w", rec.at, client, n, filewatch.ErrCorrupt)
		}
		if err := a.operation(rec, tid, flags, b[12:12+n]); err != nil {
			return fmt.Errorf("log record at sector %d: %w", rec.at, err)
		}
		b = b[12+n:]
	}
	return nil
}

func (a *assembler) operation(rec *record, tid uint32, flags byte, data []byte) error {
	t := a.open[tid]
	if t == nil {
		if flags&opStart != 0 {
			a.open[tid] = &transaction{lsn: rec.lsn}
		}
		return nil // the rest of one that started before the tail
	}
	if flags&opStart != 0 {
		return nil
	}
	flags &^= opEnd
	if flags&opWasCont != 0 {
		flags &^= opContinue
	}
	if a.pending += len(data); a.pending > maxPending {
		return fmt.Errorf("more than %d bytes of open transactions: %w", maxPending, filewatch.ErrNotSupported)
	}
	switch flags {
	case opCommit:
		delete(a.open, tid)
		for _, i := range t.items {
			for _, r := range i.regions {
				a.pending -= len(r)
			}
		}
		return a.commit(t)
	case 0, opContinue:
		return t.add(data)
	case opWasCont:
		return t.extend(data)
	case opUnmount:
		return nil
	}
	return fmt.Errorf("operation flags %#x: %w", flags, filewatch.ErrCorrupt)
}

// add appends a region (xlog_recover_add_to_trans).
func (t *transaction) add(data []byte) error {
	if len(data) == 0 {
		return nil
	}
	if len(t.header) < transactionHeader {
		t.header = append(t.header, data...)
		if len(t.header) > transactionHeader || len(t.header) >= 4 && le.Uint32(t.header) != transactionMagic {
			return fmt.Errorf("transaction header of %d bytes: %w", len(t.header), filewatch.ErrCorrupt)
		}
		return nil
	}
	n := len(t.items)
	if n == 0 || len(t.items[n-1].regions) == t.items[n-1].total {
		if len(data) < 4 {
			return fmt.Errorf("item of %d bytes: %w", len(data), filewatch.ErrCorrupt)
		}
		total := int(le.Uint16(data[2:]))
		if total == 0 || total > 1024 {
			return fmt.Errorf("item of %d regions: %w", total, filewatch.ErrCorrupt)
		}
		t.items = append(t.items, &item{total: total})
		n++
	}
	i := t.items[n-1]
	i.regions = append(i.regions, append([]byte(nil), data...))
	return nil
}

// extend continues the last region (xlog_recover_add_to_cont_trans).
func (t *transaction) extend(data []byte) error {
	if len(t.header) < transactionHeader {
		return t.add(data)
	}
	n := len(t.items)
	if n == 0 {
		return fmt.Errorf("continuation without an item: %w", filewatch.ErrCorrupt)
	}
	i := t.items[n-1]
	last := len(i.regions) - 1
	i.regions[last] = append(i.regions[last], data...)
	return nil
}
