package disk

import (
	"encoding/binary"
	"fmt"
	"os"
)

// writeEmpty makes an empty file a qcow2 image of a disk of size bytes of which
// nothing is allocated (QEMU docs/interop/qcow2.txt, version 3): a cluster each for
// the header, the refcount table and the refcounts, then the L1 table, all zeros.
// QEMU would take several commands and a job to make the same.
func writeEmpty(f *os.File, size int64) error {
	const (
		bits    = 16
		cluster = 1 << bits
		perL1   = cluster * (cluster / 8) // bytes of the disk that an entry of the L1 table is for
		most    = 32 << 20 / 8            // entries (QEMU block/qcow2.h, QCOW_MAX_L1_SIZE)
	)
	size = (size + 511) &^ 511
	entries := (size + perL1 - 1) / perL1
	if size < 0 || entries > most {
		return fmt.Errorf("an overlay for a disk of %d bytes: %w", size, ErrNotSupported)
	}
	clusters := 3 + (entries*8+cluster-1)/cluster
	be := binary.BigEndian
	head := make([]byte, 112) // the end is the end of extensions
	be.PutUint32(head[0x00:], 0x514649fb)
	be.PutUint32(head[0x04:], 3)
	be.PutUint32(head[0x14:], bits)
	be.PutUint64(head[0x18:], uint64(size))
	be.PutUint32(head[0x24:], uint32(entries)) // of the L1 table
	be.PutUint64(head[0x28:], 3*cluster)
	be.PutUint64(head[0x30:], 1*cluster) // the refcount table
	be.PutUint32(head[0x38:], 1)         // in clusters
	be.PutUint32(head[0x60:], 4)         // refcounts of 1<<4 bits
	be.PutUint32(head[0x64:], 104)       // length of the header
	table := be.AppendUint64(nil, 2*cluster)
	var counts []byte
	for range clusters {
		counts = be.AppendUint16(counts, 1)
	}
	for i, b := range [][]byte{head, table, counts} {
		if _, err := f.WriteAt(b, int64(i)*cluster); err != nil {
			return err
		}
	}
	return f.Truncate(clusters * cluster)
}
