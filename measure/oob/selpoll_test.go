package oob

import (
	"context"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/plumbline-sec/plumbline/measure/oob/wire"
)

// logOf reads a BMC's log in process.
type logOf struct{ l *eventLog }

func (l logOf) Entries(_ context.Context, first uint16) ([]*types.SEL, error) {
	l.l.mu.Lock()
	defer l.l.mu.Unlock()
	var out []*types.SEL
	at := l.l.index(first)
	for ; at >= 0 && at < len(l.l.records); at++ {
		r := l.l.records[at]
		sel := &types.SEL{RecordID: binary.LittleEndian.Uint16(r[:]), RecordType: types.SELRecordType(r[2])}
		oem := &types.SELOEMNonTimestamped{}
		copy(oem.OEM[:], r[3:])
		sel.OEMNonTimestamped = oem
		out = append(out, sel)
	}
	return out, nil
}

func askFor(nonce byte) selRecord {
	r := selRecord{2: wire.SELRecordType}
	payload := wire.SELRecord([wire.NonceSize]byte{nonce})
	copy(r[3:], payload[:])
	return r
}

func TestSELPollActsOnNewRecordsOnce(t *testing.T) {
	log := newEventLog()
	log.add(askFor(1)) // from before: its verifier has given up
	var asked []byte
	p := &SELPoll{Log: logOf{log}, Scan: func(_ context.Context, n [wire.SELNonceSize]byte) { asked = append(asked, n[0]) }}
	old, _ := p.Log.Entries(t.Context(), 0)
	last := lastOf(old)
	look := func(want string) {
		t.Helper()
		var err error
		if last, err = p.look(t.Context(), last); err != nil || string(asked) != want {
			t.Fatalf("asked %v, %v; want %v", asked, err, []byte(want))
		}
	}
	look("")
	log.add(askFor(2))
	log.add(selRecord{2: wire.SELRecordType, 3: 0xaa}) // another vendor's
	log.add(askFor(3))
	look("\x02\x03")
	look("\x02\x03")
	// The log is cleared and IDs start again.
	*log = *newEventLog()
	log.add(askFor(4))
	look("\x02\x03\x04")
}

// unreadable is a log whose next answer is an error.
type unreadable struct {
	EventLog
	once bool
}

func (u *unreadable) Entries(ctx context.Context, first uint16) ([]*types.SEL, error) {
	if u.once {
		u.once = false
		return nil, errors.New("timeout")
	}
	return u.EventLog.Entries(ctx, first)
}

// A log that could not be read once is read from its beginning: what was there
// before is not acted on again, nor is a record that a client sent twice.
func TestSELPollActsOnNoRecordTwice(t *testing.T) {
	log := newEventLog()
	log.add(askFor(1)) // from before
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	source := &unreadable{EventLog: logOf{log}}
	asked := make(chan byte, 100)
	p := &SELPoll{Log: source, Every: time.Millisecond, Scan: func(_ context.Context, n [wire.SELNonceSize]byte) {
		asked <- n[0]
		if n[0] == 9 {
			cancel()
			return
		}
		source.once = true // at the next look
		log.add(askFor(n[0]))
		log.add(askFor(n[0] + 1))
	}}
	p.Began = func() { log.add(askFor(7)) }
	if err := p.Run(ctx); err != nil {
		t.Fatal(err)
	}
	close(asked)
	var all []byte
	for n := range asked {
		all = append(all, n)
	}
	if string(all) != "\x07\x08\x09" {
		t.Errorf("asked %v, want 7, 8 and 9", all)
	}
}

// A record as a BMC sends it has the whole of what it carries of a nonce.
func TestReadsWholeRecords(t *testing.T) {
	nonce := [wire.NonceSize]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}
	payload := wire.SELRecord(nonce)
	log := map[uint16][]byte{
		0: append([]byte{1, 0, wire.SELRecordType}, payload[:]...),
		7: append([]byte{7, 0, 0x02}, make([]byte, 13)...), // of the BMC itself
	}
	next := map[uint16]uint16{0: 7, 7: lastRecord}
	records, err := entries(0, func(id uint16) ([]byte, uint16, error) { return log[id], next[id], nil })
	if err != nil || len(records) != 2 || records[1].RecordID != 7 {
		t.Fatalf("%d records, %v", len(records), err)
	}
	got, err := wire.ParseSELRecord(records[0].OEMNonTimestamped.OEM[:])
	if err != nil || got != [wire.SELNonceSize]byte(nonce[:]) {
		t.Errorf("nonce %x, %v", got, err)
	}
}

// A log that goes in circles, or a record that was cut short, ends.
func TestHostileLog(t *testing.T) {
	record := append([]byte{1, 0, wire.SELRecordType}, make([]byte, 13)...)
	if records, err := entries(1, func(uint16) ([]byte, uint16, error) { return record, 1, nil }); err != nil || len(records) != maxRecords {
		t.Errorf("%d records, %v", len(records), err)
	}
	for n := range record {
		if records, err := entries(1, func(uint16) ([]byte, uint16, error) { return record[:n], lastRecord, nil }); err == nil {
			t.Errorf("%d bytes: %d records", n, len(records))
		}
	}
}
