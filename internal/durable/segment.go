package durable

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
)

// A segment is a file of records. Each record is
//
//	0x00 u32 length of the payload, little-endian
//	0x04 u32 CRC-32C over number and payload
//	0x08 u64 number
//	0x10     payload
//
// The checksum finds torn writes and bad disks. It is no protection against
// someone who may write the spool: what must not be forged is signed inside.
const recordHeader = 16

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errTorn marks where a segment stops making sense.
var errTorn = errors.New("torn record")

func appendRecord(b []byte, seq uint64, payload []byte) []byte {
	var head [recordHeader]byte
	binary.LittleEndian.PutUint32(head[0:], uint32(len(payload)))
	binary.LittleEndian.PutUint64(head[8:], seq)
	binary.LittleEndian.PutUint32(head[4:], checksum(head[8:16], payload))
	return append(append(b, head[:]...), payload...)
}

func checksum(seq, payload []byte) uint32 {
	return crc32.Update(crc32.Checksum(seq, castagnoli), castagnoli, payload)
}

// readRecord reads the record at off. It returns io.EOF at the end of a whole
// segment and errTorn where a record is cut short or damaged.
func readRecord(f io.ReaderAt, off, size int64) (entry Entry, next int64, err error) {
	if off == size {
		return Entry{}, off, io.EOF
	}
	var head [recordHeader]byte
	if size-off < recordHeader {
		return Entry{}, off, errTorn
	}
	if _, err := f.ReadAt(head[:], off); err != nil {
		return Entry{}, off, err
	}
	length := int64(binary.LittleEndian.Uint32(head[0:]))
	if length > MaxRecord || length > size-off-recordHeader {
		return Entry{}, off, errTorn
	}
	payload := make([]byte, length)
	if _, err := f.ReadAt(payload, off+recordHeader); err != nil {
		return Entry{}, off, err
	}
	if checksum(head[8:16], payload) != binary.LittleEndian.Uint32(head[4:]) {
		return Entry{}, off, errTorn
	}
	return Entry{Seq: binary.LittleEndian.Uint64(head[8:]), Payload: payload}, off + recordHeader + length, nil
}

// walk calls visit for each whole record of a segment, whose numbers begin at
// first, and returns the offset behind the last one. What is damaged is passed over:
// it shows as a gap in the numbers. What the disk does not give back is
// [ErrUnreadable].
func walk(path string, first uint64, visit func(Entry) bool) (end int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	size := info.Size()
	var off int64
	for {
		entry, next, err := readRecord(f, off, size)
		if errors.Is(err, errTorn) {
			entry, next, err = nextWhole(f, off, size, first)
		}
		if err == io.EOF {
			return end, nil
		}
		if err != nil {
			return end, fmt.Errorf("%s at %#x: %w: %w", path, off, ErrUnreadable, err)
		}
		if !visit(entry) {
			return end, nil
		}
		off, end, first = next, next, entry.Seq+1
	}
}

// nextWhole finds the first whole record behind a damaged one at off. How long that
// one was its length no longer says, so every byte is tried; a number that fits is
// looked for first, since the checksum is dear: from least on, and not more than
// there can be records in so many bytes. It returns io.EOF if there is none.
func nextWhole(f io.ReaderAt, off, size int64, least uint64) (Entry, int64, error) {
	rest := make([]byte, size-off)
	if _, err := f.ReadAt(rest, off); err != nil {
		return Entry{}, off, err
	}
	for i := 1; i+recordHeader <= len(rest); i++ {
		seq := binary.LittleEndian.Uint64(rest[i+8:])
		if seq < least || seq-least > uint64(len(rest)/recordHeader) {
			continue
		}
		entry, next, err := readRecord(f, off+int64(i), size)
		if !errors.Is(err, errTorn) {
			return entry, next, err
		}
	}
	return Entry{}, off, io.EOF
}
