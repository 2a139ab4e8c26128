package volume_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch/volume"
	"github.com/plumbline-sec/plumbline/filewatch/volume/parttab"
)

// entry writes an entry of an MBR or of an extended boot record.
func entry(b []byte, n int, kind byte, first, count uint32) {
	copy(b[510:], "\x55\xAA")
	e := b[446+16*n:]
	e[4] = kind
	binary.LittleEndian.PutUint32(e[8:], first)
	binary.LittleEndian.PutUint32(e[12:], count)
}

// wide is a disk of 64 MiB whose MBR has, in sectors of 4,096 bytes, a partition at 1 MiB,
// and a logical one at 9 MiB, of 4 MiB each. It is what sfdisk makes on a loop device
// of such sectors, but for the disk's identity.
func wide() []byte {
	b := make([]byte, 64<<20)
	entry(b, 0, 0x83, 256, 1024)
	entry(b, 1, 0x05, 2048, 4096)
	entry(b[8<<20:], 0, 0x83, 256, 1024)
	return b
}

// An MBR says nothing of the size of sectors: what begins where its partitions do says
// it, and nothing is read where both do.
func TestSectorsOfMBR(t *testing.T) {
	ext4 := fileSystem(t)
	other := fileSystemOf(t, "bbbb2222-0000-4000-8000-000000000002")
	for name, c := range map[string]struct {
		disk   []byte
		change func([]byte)
		places []int64
		want   error
	}{
		"of 4,096":                    {wide(), func(b []byte) { copy(b[1<<20:], ext4) }, []int64{1 << 20}, nil},
		"of 4,096, logical too":       {wide(), func(b []byte) { copy(b[1<<20:], ext4); copy(b[9<<20:], other) }, []int64{1 << 20, 9 << 20}, nil},
		"of 512":                      {partitioned(t), func(b []byte) { copy(b[4<<20:], ext4) }, []int64{4 << 20}, nil},
		"of 512, on a disk that grew": {append(partitioned(t), make([]byte, 112<<20)...), func(b []byte) { copy(b[4<<20:], ext4) }, []int64{4 << 20}, nil},
		"nothing in either":           {append(partitioned(t), make([]byte, 112<<20)...), func([]byte) {}, nil, nil},
		"something in both":           {append(partitioned(t), make([]byte, 112<<20)...), func(b []byte) { copy(b[4<<20:], ext4); copy(b[32<<20:], other) }, []int64{4 << 20}, parttab.ErrAmbiguous},
		"two bytes of chance in both": {append(partitioned(t), make([]byte, 112<<20)...), func(b []byte) { copy(b[4<<20:], ext4); copy(b[32<<20+1080:], "\x53\xEF") }, []int64{4 << 20}, nil},
		"a partition that begins with the disk": {make([]byte, 64<<20), func(b []byte) {
			entry(b, 0, 0x17, 0, 8000) // as isohybrid's: the whole image, at 0 in either size
			entry(b, 1, 0x83, 8192, 8192)
			copy(b[32768:], "\x01CD001\x01")
			copy(b[4<<20:], ext4)
		}, []int64{4 << 20}, nil},
		"what would not fit":          {partitioned(t), func(b []byte) { copy(b[4<<20:], ext4); copy(b[15<<20:], other) }, []int64{4 << 20}, nil},
		"of 4,096, in a gap, a decoy": {wide(), func(b []byte) { copy(b[1<<20:], ext4); copy(b[128<<10:], other[:64<<10]) }, nil, parttab.ErrAmbiguous},
	} {
		t.Run(name, func(t *testing.T) {
			b := c.disk
			c.change(b)
			d, err := volume.Open(bytes.NewReader(b), int64(len(b)))
			if err != nil {
				t.Fatal(err)
			}
			var places []int64
			for _, v := range d.Volumes {
				if v.NotMeasured == "" {
					places = append(places, v.Offset)
				}
			}
			if c.want != nil {
				if !errors.Is(errors.Join(d.Damage...), c.want) {
					t.Errorf("%v, want %v", d.Damage, c.want)
				}
				return
			}
			if len(d.Damage) > 0 || len(places) != len(c.places) {
				t.Fatalf("volumes at %v, want %v; %v", places, c.places, d.Damage)
			}
			for i := range places {
				if places[i] != c.places[i] {
					t.Errorf("volumes at %v, want %v", places, c.places)
				}
			}
		})
	}
}
