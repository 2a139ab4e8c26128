// Package vfat reads FAT12, FAT16 and FAT32 with long names.
//
// Layout: Microsoft, "FAT: General Overview of On-Disk Format" 1.03, and what
// Linux's fs/fat does where the two differ. Everything is little-endian.
//
// FAT knows no owners, permissions or links; what Linux would show for it by
// default is given. An object's inode number is the place of its directory
// entry in units of 32 bytes, the root's is 1. Times are taken as UTC. There are
// no checksums: damage shows only where structures contradict themselves.
package vfat

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/volume/span"
)

var le = binary.LittleEndian

const rootInode = 1

// Volume is one file system. It satisfies volume.Reader and is safe for
// concurrent use.
type Volume struct {
	// Type is "vfat".
	Type string
	// Serial is the volume's serial number as blkid(8) writes it: "1234-ABCD".
	Serial string
	// Label is that of the root directory, else that of the boot sector.
	Label string

	dev         io.ReaderAt
	sparse      span.Sparse
	size        int64
	bits        int   // of a table entry: 12, 16 or 32
	cluster     int64 // bytes
	fat         int64 // offset of the table in use
	fatSize     int64 // bytes
	root        int64 // offset of the fixed root directory; 0 with FAT32
	rootSize    int64
	rootCluster uint32
	data        int64 // offset of cluster 2
	clusters    uint32

	now func() (*moment, error) // see Marks
}

// Open reads the boot sector. The volume of size bytes is not written.
func Open(r io.ReaderAt, size int64) (*Volume, error) {
	b := make([]byte, 512)
	if _, err := r.ReadAt(b, 0); err != nil {
		return nil, fmt.Errorf("vfat: read boot sector: %w", err)
	}
	v := &Volume{Type: "vfat", dev: r, size: size}
	v.sparse, _ = r.(span.Sparse)
	v.now = sync.OnceValues(v.gather)
	if err := v.parse(b); err != nil {
		return nil, fmt.Errorf("vfat: %w", err)
	}
	return v, v.readLabel()
}

// parse reads the BIOS parameter block; offsets are those of the specification.
func (v *Volume) parse(b []byte) error {
	sector, per := int64(le.Uint16(b[0x0B:])), int64(b[0x0D])
	reserved, fats, entries := int64(le.Uint16(b[0x0E:])), int64(b[0x10]), int64(le.Uint16(b[0x11:]))
	total, fatSectors := int64(le.Uint16(b[0x13:])), int64(le.Uint16(b[0x16:]))
	if total == 0 {
		total = int64(le.Uint32(b[0x20:]))
	}
	serial, label := b[0x27:0x2B], b[0x2B:0x36]
	fat32 := fatSectors == 0
	if fat32 {
		fatSectors = int64(le.Uint32(b[0x24:]))
		v.rootCluster = le.Uint32(b[0x2C:])
		serial, label = b[0x43:0x47], b[0x47:0x52]
		if flags := le.Uint16(b[0x28:]); flags&0x80 != 0 && flags&0xF != 0 {
			// Linux goes by the first table all the same (fs/fat/inode.c, 6.12), so
			// two would read two file systems.
			return fmt.Errorf("no mirroring, and table %d in use: %w", flags&0xF, filewatch.ErrNotSupported)
		}
		if entries != 0 {
			// Linux leaves room for a fixed root directory before the clusters, which
			// the format does not have: firmware would read other clusters.
			return fmt.Errorf("%d entries of a fixed root directory in FAT32: %w", entries, filewatch.ErrNotSupported)
		}
	}
	power := func(n int64) bool { return n > 0 && n&(n-1) == 0 }
	if !power(sector) || sector < 512 || sector > 4096 || !power(per) || reserved == 0 || fats == 0 || fatSectors == 0 {
		return fmt.Errorf("sectors of %d bytes, clusters of %d, %d tables of %d: %w", sector, per, fats, fatSectors, filewatch.ErrCorrupt)
	}
	v.cluster = sector * per
	v.fat, v.fatSize = reserved*sector, fatSectors*sector
	v.root, v.rootSize = (reserved+fats*fatSectors)*sector, entries*32
	v.data = v.root + (v.rootSize+sector-1)/sector*sector
	if end := total * sector; end > v.size || v.data >= end {
		return fmt.Errorf("%d sectors of %d bytes on a device of %d: %w", total, sector, v.size, filewatch.ErrCorrupt)
	}
	clusters := (total*sector - v.data) / v.cluster
	switch {
	case fat32:
		v.bits, v.root = 32, 0
	case clusters < 4085:
		v.bits = 12
	default:
		v.bits = 16
	}
	clusters = min(clusters, v.fatSize*8/int64(v.bits)-2)
	if clusters <= 0 || clusters >= 1<<28 {
		return fmt.Errorf("%d clusters: %w", clusters, filewatch.ErrCorrupt)
	}
	v.clusters = uint32(clusters)
	if n := le.Uint32(serial); n != 0 {
		v.Serial = fmt.Sprintf("%04X-%04X", n>>16, n&0xFFFF)
	}
	if s := strings.TrimRight(string(label), " \x00"); s != "NO NAME" {
		v.Label = s
	}
	return nil
}

// readLabel finds the label among the entries of the root directory.
func (v *Volume) readLabel() error {
	es, _, err := v.dirExtents(rootInode)
	if err != nil {
		return nil // reported when the root is listed
	}
	d := dirReader{v: v, es: es, label: func(s string) { v.Label = s }}
	d.read(func(slot) error { return nil })
	return nil
}

// ReadAt reads the volume.
func (v *Volume) ReadAt(b []byte, off int64) (int, error) { return v.dev.ReadAt(b, off) }

// ReadMany is ReadAt for many places at once, as span.Many has it.
func (v *Volume) ReadMany(bufs [][]byte, offs []int64) error {
	return span.ReadMany(v.dev, bufs, offs)
}

// NextData gives the first offset at or after off that may hold data.
func (v *Volume) NextData(off int64) (int64, error) {
	if v.sparse == nil {
		return off, nil
	}
	return v.sparse.NextData(off)
}

// Root is the inode number of the root directory.
func (v *Volume) Root() uint64 { return rootInode }
