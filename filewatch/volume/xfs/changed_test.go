package xfs

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// What changed between two moments, for volumes of one group with blocks of 1 KiB and
// inodes of 512 bytes: those of chunk 64 are from 32 KiB on, in blocks 32 to 63.
func TestChanged(t *testing.T) {
	s := &super{blockSize: 1024, blocks: 4096, inodeSize: 512, inodesBlkLog: 1, agBlkLog: 12, agBlocks: 4096, agCount: 1}
	chunks := func(free uint64, holes uint16) *marks {
		return &marks{chunks: []chunk{{first: 64, free: free, holes: holes}, {first: 256}}}
	}
	log := func(m *marks, sectors ...sectorMark) *marks {
		m.sectors = sectors
		return m
	}
	pending := func(m *marks, inodes ...uint64) *marks {
		m.inodes = inodes
		return m
	}
	run := func(at, length int64) []filewatch.Extent {
		return []filewatch.Extent{{Physical: at, Length: length}}
	}
	one, other := [16]byte{1}, [16]byte{2}
	for name, c := range map[string]struct {
		was, now        *marks
		dirty           []filewatch.Extent
		blocks          []filewatch.Extent
		inodes, renewed []uint64
	}{
		"nothing":                   {was: chunks(0, 0), now: chunks(0, 0)},
		"one byte of an inode":      {was: chunks(0, 0), now: chunks(0, 0), dirty: run(33<<10+700, 1), blocks: run(33<<10, 1024), inodes: []uint64{66, 67}},
		"one byte of content":       {was: chunks(0, 0), now: chunks(0, 0), dirty: run(70<<10, 1), blocks: run(70<<10, 1024)},
		"between two chunks":        {was: chunks(0, 0), now: chunks(0, 0), dirty: run(63<<10, 66<<10), blocks: run(63<<10, 66<<10), inodes: []uint64{126, 127, 256, 257}},
		"written where none are":    {was: chunks(0, 1), now: chunks(0, 1), dirty: run(32<<10, 3072), blocks: run(32<<10, 3072), inodes: []uint64{68, 69}},
		"came into use":             {was: chunks(6, 0), now: chunks(4, 0), renewed: []uint64{65}},
		"became free":               {was: chunks(4, 0), now: chunks(6, 0), renewed: []uint64{65}},
		"came into being":           {was: chunks(0, 2), now: chunks(0, 0), renewed: []uint64{68, 69, 70, 71}},
		"went":                      {was: chunks(0, 0), now: chunks(0, 2), renewed: []uint64{68, 69, 70, 71}},
		"chunk went":                {was: chunks(0, 0x7FFF), now: &marks{chunks: []chunk{{first: 256}}}, renewed: []uint64{124, 125, 126, 127}},
		"chunk came":                {was: &marks{chunks: []chunk{{first: 256}}}, now: chunks(0, 0x7FFF), renewed: []uint64{124, 125, 126, 127}},
		"log began to replace":      {was: chunks(0, 0), now: log(chunks(0, 0), sectorMark{67, one}), blocks: run(33<<10, 1024), inodes: []uint64{66, 67}, renewed: []uint64{67}},
		"log ceased to replace":     {was: log(chunks(0, 0), sectorMark{140, one}), now: chunks(0, 0), blocks: run(70<<10, 1024)},
		"log replaces otherwise":    {was: log(chunks(0, 0), sectorMark{66, one}), now: log(chunks(0, 0), sectorMark{66, other}), blocks: run(33<<10, 1024), inodes: []uint64{66, 67}, renewed: []uint64{66}},
		"log replaces as it did":    {was: log(chunks(0, 0), sectorMark{66, one}), now: log(chunks(0, 0), sectorMark{66, one})},
		"announced in the log":      {was: chunks(0, 0), now: pending(chunks(0, 0), 70), renewed: []uint64{70}},
		"was announced in the log":  {was: pending(chunks(0, 0), 70), now: chunks(0, 0), renewed: []uint64{70}},
		"is announced, then as now": {was: pending(chunks(0, 0), 70), now: pending(chunks(0, 0), 70), renewed: []uint64{70}},
	} {
		v := &Volume{s: s, moment: func() (*marks, error) { return c.now, nil }}
		blocks, inodes, renewed, err := v.Changed(c.was.append(nil), c.dirty)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if d := cmp.Diff([]any{c.blocks, c.inodes, c.renewed}, []any{blocks, inodes, renewed}); d != "" {
			t.Errorf("%s (-want +got):\n%s", name, d)
		}
	}
}

// A superblock that places things elsewhere is not followed, nor are trees in which
// inodes have no place of their own.
func TestChangedRefuses(t *testing.T) {
	v := &Volume{s: &super{}, moment: func() (*marks, error) { return &marks{shape: [32]byte{1}}, nil }}
	if _, _, _, err := v.Changed((&marks{}).append(nil), nil); err != ErrReshaped {
		t.Errorf("another shape: %v", err)
	}
	s := &super{blockSize: 1024, blocks: 128, inodeSize: 512, inodesBlkLog: 1, agBlkLog: 6, agBlocks: 64, agCount: 2}
	for name, list := range map[string][]chunk{
		"overlap":          {{first: 0}, {first: 60}},
		"over two groups":  {{first: 100}},
		"beyond the last":  {{first: 256}},
		"again, and back":  {{first: 64}, {first: 0}},
		"the same, twice":  {{first: 64}, {first: 64}},
		"the last of none": {{first: 1 << 40, holes: 0x7FFF}},
	} {
		m := &marks{}
		var err error
		for _, c := range list {
			if err == nil {
				err = m.add(&Volume{s: s}, c)
			}
		}
		if err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
