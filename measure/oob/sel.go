package oob

import (
	"context"
	"encoding/binary"
	"sync"
	"time"

	"github.com/bougou/go-ipmi/pkg/handlers"
	"github.com/bougou/go-ipmi/pkg/types"
)

// selCapacity is how many records the log holds. A full log refuses further
// records (C4h) and says so in its overflow bit: overwriting the oldest would
// let an attacker inside push evidence out.
const selCapacity = 512

// eventLog is the BMC's system event log (IPMI v2.0 rev. 1.1, section 31).
// Records keep their IDs when others are deleted.
type eventLog struct {
	mu          sync.Mutex
	records     []selRecord // ascending ID
	nextID      uint16
	reservation uint16
	overflow    bool
	added       time.Time
	erased      time.Time
	skew        time.Duration // what Set SEL Time set the clock apart by
}

type selRecord [16]byte

func (r *selRecord) id() uint16 { return binary.LittleEndian.Uint16(r[0:2]) }

func newEventLog() *eventLog { return &eventLog{nextID: 1} }

func (l *eventLog) register(r *handlers.Registry) {
	for command, handle := range map[types.Command]func([]byte) ([]byte, types.CompletionCode){
		types.CommandGetSELInfo:          l.info,
		types.CommandGetSELAllocInfo:     l.allocation,
		types.CommandReserveSEL:          l.reserve,
		types.CommandGetSELEntry:         l.entry,
		types.CommandAddSELEntry:         l.addEntry,
		types.CommandDeleteSELEntry:      l.deleteEntry,
		types.CommandClearSEL:            l.clear,
		types.CommandGetSELTime:          l.time,
		types.CommandSetSELTime:          l.setTime,
		types.CommandGetSELTimeUTCOffset: utcOffset,
	} {
		r.RegisterFunc(command, func(_ context.Context, _ *handlers.HandlerContext, data []byte) ([]byte, types.CompletionCode, error) {
			l.mu.Lock()
			defer l.mu.Unlock()
			response, code := handle(data)
			return response, code, nil
		})
	}
}

// add stores a record made by the BMC itself.
func (l *eventLog) add(record selRecord) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.store(record)
}

// store gives record its ID and, where its type asks for one, its time stamp.
func (l *eventLog) store(record selRecord) (uint16, bool) {
	if len(l.records) >= selCapacity || l.nextID == 0xffff {
		l.overflow = true
		return 0, false
	}
	id := l.nextID
	l.nextID++
	binary.LittleEndian.PutUint16(record[0:2], id)
	if record[2] < 0xE0 { // section 32: types from E0h on carry no time stamp
		binary.LittleEndian.PutUint32(record[3:7], l.now())
	}
	l.records = append(l.records, record)
	l.added = time.Now()
	return id, true
}

func (l *eventLog) now() uint32 { return uint32(time.Now().Add(l.skew).Unix()) }

func (l *eventLog) stamp(t time.Time) uint32 {
	if t.IsZero() {
		return 0xffffffff // section 37: unspecified
	}
	return uint32(t.Add(l.skew).Unix())
}

// info answers Get SEL Info (table 31-2).
func (l *eventLog) info([]byte) ([]byte, types.CompletionCode) {
	b := []byte{0x51} // SEL version 1.5, the one IPMI 2.0 uses
	b = binary.LittleEndian.AppendUint16(b, uint16(len(l.records)))
	b = binary.LittleEndian.AppendUint16(b, uint16((selCapacity-len(l.records))*16))
	b = binary.LittleEndian.AppendUint32(b, l.stamp(l.added))
	b = binary.LittleEndian.AppendUint32(b, l.stamp(l.erased))
	support := byte(0x0B) // delete, reserve and allocation information
	if l.overflow {
		support |= 0x80
	}
	return append(b, support), types.CodeOK
}

// allocation answers Get SEL Allocation Info (table 31-3).
func (l *eventLog) allocation([]byte) ([]byte, types.CompletionCode) {
	free := uint16(selCapacity - len(l.records))
	var b []byte
	for _, v := range []uint16{selCapacity, 16, free, free} {
		b = binary.LittleEndian.AppendUint16(b, v)
	}
	return append(b, 1), types.CodeOK
}

// reserve answers Reserve SEL (table 31-4).
func (l *eventLog) reserve([]byte) ([]byte, types.CompletionCode) {
	l.reservation++
	if l.reservation == 0 {
		l.reservation = 1
	}
	return binary.LittleEndian.AppendUint16(nil, l.reservation), types.CodeOK
}

func (l *eventLog) reserved(data []byte) bool {
	return binary.LittleEndian.Uint16(data) == l.reservation && l.reservation != 0
}

// index finds a record; 0 is the first, FFFFh the last.
func (l *eventLog) index(id uint16) int {
	switch {
	case len(l.records) == 0:
		return -1
	case id == 0:
		return 0
	case id == 0xffff:
		return len(l.records) - 1
	}
	for i := range l.records {
		if l.records[i].id() == id {
			return i
		}
	}
	return -1
}

// entry answers Get SEL Entry (table 31-5).
func (l *eventLog) entry(data []byte) ([]byte, types.CompletionCode) {
	if len(data) != 6 {
		return nil, types.CodeRequestDataLengthInvalid
	}
	id, offset, count := binary.LittleEndian.Uint16(data[2:]), int(data[4]), int(data[5])
	if offset != 0 && !l.reserved(data) {
		return nil, types.CodeReservationCanceled
	}
	i := l.index(id)
	if i < 0 {
		return nil, types.CodeRequestedDataNotPresent
	}
	if count == 0xff {
		count = 16 - offset
	}
	if offset > 16 || count < 0 || offset+count > 16 {
		return nil, types.CodeParameterOutOfRange
	}
	next := uint16(0xffff)
	if i+1 < len(l.records) {
		next = l.records[i+1].id()
	}
	return append(binary.LittleEndian.AppendUint16(nil, next), l.records[i][offset:offset+count]...), types.CodeOK
}

// addEntry answers Add SEL Entry (table 31-6). A client that did not see the
// answer sends the same record again: the newest record is not stored twice.
func (l *eventLog) addEntry(data []byte) ([]byte, types.CompletionCode) {
	if len(data) != 16 {
		return nil, types.CodeRequestDataLengthInvalid
	}
	record := selRecord(data)
	if n := len(l.records); n > 0 && time.Since(l.added) < 5*time.Second && sameEvent(l.records[n-1], record) {
		return binary.LittleEndian.AppendUint16(nil, l.records[n-1].id()), types.CodeOK
	}
	id, ok := l.store(record)
	if !ok {
		return nil, types.CodeOutOfSpace
	}
	return binary.LittleEndian.AppendUint16(nil, id), types.CodeOK
}

// sameEvent compares records apart from ID and time stamp.
func sameEvent(a, b selRecord) bool {
	payload := 7
	if a[2] >= 0xE0 {
		payload = 3
	}
	return a[2] == b[2] && string(a[payload:]) == string(b[payload:])
}

// deleteEntry answers Delete SEL Entry (table 31-8).
func (l *eventLog) deleteEntry(data []byte) ([]byte, types.CompletionCode) {
	if len(data) != 4 {
		return nil, types.CodeRequestDataLengthInvalid
	}
	if !l.reserved(data) {
		return nil, types.CodeReservationCanceled
	}
	i := l.index(binary.LittleEndian.Uint16(data[2:]))
	if i < 0 {
		return nil, types.CodeRequestedDataNotPresent
	}
	id := l.records[i].id()
	l.records = append(l.records[:i:i], l.records[i+1:]...)
	l.erased = time.Now()
	return binary.LittleEndian.AppendUint16(nil, id), types.CodeOK
}

// clear answers Clear SEL (table 31-9): "CLR", then AAh to erase or 00h to ask.
func (l *eventLog) clear(data []byte) ([]byte, types.CompletionCode) {
	if len(data) != 6 {
		return nil, types.CodeRequestDataLengthInvalid
	}
	if !l.reserved(data) {
		return nil, types.CodeReservationCanceled
	}
	if string(data[2:5]) != "CLR" {
		return nil, types.CodeRequestDataFieldInvalid
	}
	if data[5] == 0xAA {
		l.records, l.overflow, l.erased, l.reservation = nil, false, time.Now(), 0
	}
	return []byte{0x01}, types.CodeOK // erasure completed
}

func (l *eventLog) time([]byte) ([]byte, types.CompletionCode) {
	return binary.LittleEndian.AppendUint32(nil, l.now()), types.CodeOK
}

func (l *eventLog) setTime(data []byte) ([]byte, types.CompletionCode) {
	if len(data) != 4 {
		return nil, types.CodeRequestDataLengthInvalid
	}
	l.skew = time.Until(time.Unix(int64(binary.LittleEndian.Uint32(data)), 0))
	return nil, types.CodeOK
}

// utcOffset answers Get SEL Time UTC Offset (table 31-12): 07FFh is unspecified.
func utcOffset([]byte) ([]byte, types.CompletionCode) { return []byte{0xff, 0x07}, types.CodeOK }
