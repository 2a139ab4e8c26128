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

// walk calls visit for each whole record of the segment file and returns the
// offset behind the last one.
func walk(path string, visit func(e Entry, off int64) bool) (end int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	var off int64
	for {
		entry, next, err := readRecord(f, off, info.Size())
		if err == io.EOF {
			return off, nil
		}
		if err != nil {
			return off, fmt.Errorf("%s at %#x: %w", path, off, err)
		}
		if !visit(entry, off) {
			return off, nil
		}
		off = next
	}
}
