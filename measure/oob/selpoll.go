package oob

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bougou/go-ipmi/pkg/client"
	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/plumbline-sec/plumbline/measure/oob/wire"
)

// EventLog is a system event log as software on its machine reads it.
type EventLog interface {
	// Entries returns the records from ID first on, in the log's order; 0 is
	// the beginning.
	Entries(ctx context.Context, first uint16) ([]*types.SEL, error)
}

// SELPoll watches a bare-metal host's event log for the record that asks for a
// scan.
//
// It is the only way that standard BMCs leave, and a weak one: the record is
// fetched by software on the host that is to be measured. It gives a moment that
// the host's software could not predict; it hides nothing from an attacker who
// owns the host's kernel and sees the record first.
type SELPoll struct {
	Log EventLog
	// Every is the pause between looks; zero means 2 s.
	Every time.Duration
	// Scan is called with what the record carries of the nonce, once for each
	// record that was added after Run began.
	Scan func(ctx context.Context, nonce [wire.SELNonceSize]byte)
	// Began, if not nil, is called once the records that count as old are known.
	Began func()
	// Failed, if not nil, is told of a log that cannot be read.
	Failed func(error)

	// answered are the nonces that were acted on, or were old when Run began. The
	// log is read from its beginning again after it was cleared, or could not be
	// read once: none of them may be acted on twice, which the verifier would
	// take for replays.
	answered map[[wire.SELNonceSize]byte]bool
}

// Run polls until ctx ends. Records that are there when it begins are old: their
// verifier has given up on them.
func (p *SELPoll) Run(ctx context.Context) error {
	every := p.Every
	if every == 0 {
		every = 2 * time.Second
	}
	seen, err := p.Log.Entries(ctx, 0)
	if err != nil {
		return fmt.Errorf("read system event log: %w", err)
	}
	last := lastOf(seen)
	p.fresh(seen)
	if p.Began != nil {
		p.Began()
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if last, err = p.look(ctx, last); err != nil && ctx.Err() == nil && p.Failed != nil {
			p.Failed(err)
		}
	}
}

// mark is the newest record seen. Record IDs are reused after the log was
// cleared, so the record's content is part of it.
type mark struct {
	id      uint16
	content string
}

func lastOf(records []*types.SEL) mark {
	if len(records) == 0 {
		return mark{}
	}
	r := records[len(records)-1]
	return mark{r.RecordID, string(r.Pack())}
}

// look acts on the records behind last and returns the new last one.
func (p *SELPoll) look(ctx context.Context, last mark) (mark, error) {
	records, err := p.Log.Entries(ctx, last.id)
	if err != nil || len(records) == 0 || lastOf(records[:1]) != last {
		// Nothing there, or another record in its place: the log was cleared.
		if records, err = p.Log.Entries(ctx, 0); err != nil {
			return last, fmt.Errorf("read system event log: %w", err)
		}
	} else {
		records = records[1:]
	}
	for _, nonce := range p.fresh(records) {
		p.Scan(ctx, nonce)
	}
	if len(records) == 0 {
		return last, nil
	}
	return lastOf(records), nil
}

// fresh are the nonces in records that were not there before; they count as
// answered from now on.
func (p *SELPoll) fresh(records []*types.SEL) [][wire.SELNonceSize]byte {
	var out [][wire.SELNonceSize]byte
	if p.answered == nil || len(p.answered) > maxRecords {
		p.answered = make(map[[wire.SELNonceSize]byte]bool)
	}
	for _, r := range records {
		if r.RecordType != types.SELRecordType(wire.SELRecordType) || r.OEMNonTimestamped == nil {
			continue
		}
		nonce, err := wire.ParseSELRecord(r.OEMNonTimestamped.OEM[:])
		if err != nil || p.answered[nonce] { // another vendor's record of the same type, or an old one
			continue
		}
		p.answered[nonce] = true
		out = append(out, nonce)
	}
	return out
}

// LocalLog reads the event log of the machine this program runs on, through the
// kernel's IPMI driver.
type LocalLog struct {
	Device int32 // N of /dev/ipmiN
}

// Entries implements [EventLog].
func (l LocalLog) Entries(ctx context.Context, first uint16) ([]*types.SEL, error) {
	c, err := client.NewOpenClient()
	if err != nil {
		return nil, err
	}
	if err := c.ConnectOpen(ctx, l.Device); err != nil {
		return nil, fmt.Errorf("open /dev/ipmi%d: %w", l.Device, err)
	}
	defer c.Close(context.WithoutCancel(ctx))
	records, err := entries(first, func(id uint16) ([]byte, uint16, error) {
		e, err := c.GetSELEntry(ctx, 0, id)
		if err != nil {
			return nil, 0, err
		}
		return e.Data, e.NextRecordID, nil
	})
	var code interface{ CompletionCode() types.CompletionCode }
	if errors.As(err, &code) && code.CompletionCode() == types.CodeRequestedDataNotPresent {
		return nil, nil // no record with that ID, or none at all
	}
	return records, err
}

// Special record IDs, and how many records are read at most: IDs have 16 bits
// (IPMI v2.0 rev. 1.1, section 31.5).
const (
	lastRecord = 0xffff
	maxRecords = 1 << 16
)

// entries reads records until there is no next one.
func entries(first uint16, get func(id uint16) (record []byte, next uint16, err error)) ([]*types.SEL, error) {
	var out []*types.SEL
	for id := first; len(out) < maxRecords; {
		b, next, err := get(id)
		if err != nil {
			return nil, err
		}
		record, err := parseRecord(b)
		if err != nil {
			return nil, err
		}
		out = append(out, record)
		if next == lastRecord {
			break
		}
		id = next
	}
	return out, nil
}

// parseRecord reads a record. Of an OEM record without a time stamp, types E0h to
// FFh, all 13 bytes are taken (section 32.3): the library keeps six.
func parseRecord(b []byte) (*types.SEL, error) {
	record, err := types.ParseSEL(b)
	if err == nil && len(b) == 16 && record.OEMNonTimestamped != nil {
		copy(record.OEMNonTimestamped.OEM[:], b[3:])
	}
	return record, err
}
