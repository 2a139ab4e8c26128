package ext4

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// ErrReshaped says that group descriptors or superblock place things elsewhere.
var ErrReshaped = errors.New("superblock or group descriptors changed")

// Changed implements volume.Follower: what may read differently since old was
// made by [Volume.Marks], when at most the bytes in dirty, which are sorted, changed on the device: blocks
// as sorted runs of bytes, inodes by their own bytes, and inodes that fast
// commits touched then or now.
//
// A block reads as it did when the device's own block did not change and the
// journal replaces it neither then nor now, or both times by the same block of
// the journal, which did not change.
func (v *Volume) Changed(old []byte, dirty []filewatch.Extent) (blocks []filewatch.Extent, inodes, renewed []uint64, err error) {
	was, err := parseMarks(old)
	if err != nil {
		return nil, nil, nil, err
	}
	now, err := v.marks()
	if err != nil {
		return nil, nil, nil, err
	}
	if was.shape != now.shape || len(was.groups) != len(now.groups) {
		return nil, nil, nil, ErrReshaped
	}
	for i := range now.groups {
		if was.groups[i].table != now.groups[i].table {
			return nil, nil, nil, ErrReshaped
		}
	}
	blocks = v.changedBlocks(was, now, dirty)
	for _, n := range slices.Concat(was.inodes, was.dirs, now.inodes, now.dirs) {
		renewed = append(renewed, uint64(n))
	}
	slices.Sort(renewed)
	return blocks, v.changedInodes(was, now, blocks), slices.Compact(renewed), nil
}

// changedBlocks are the dirty blocks and those that the journal replaces
// differently.
func (v *Volume) changedBlocks(was, now *marks, dirty []filewatch.Extent) []filewatch.Extent {
	bs := v.s.blockSize
	var out []filewatch.Extent
	for _, e := range dirty {
		lo, hi := e.Physical/bs*bs, (e.Physical+e.Length+bs-1)/bs*bs
		out = append(out, filewatch.Extent{Physical: lo, Length: hi - lo})
	}
	add := func(block uint64) {
		out = append(out, filewatch.Extent{Physical: int64(block) * bs, Length: bs})
	}
	a, b := was.blocks, now.blocks
	for len(a) > 0 || len(b) > 0 {
		switch {
		case len(b) == 0 || len(a) > 0 && a[0].block < b[0].block:
			add(a[0].block)
			a = a[1:]
		case len(a) == 0 || b[0].block < a[0].block:
			add(b[0].block)
			b = b[1:]
		default:
			if a[0] != b[0] || overlaps(dirty, int64(a[0].from)*bs, bs) {
				add(a[0].block)
			}
			a, b = a[1:], b[1:]
		}
	}
	return out
}

// overlaps says whether one of the sorted runs meets length bytes at off.
func overlaps(runs []filewatch.Extent, off, length int64) bool {
	i := sort.Search(len(runs), func(i int) bool { return runs[i].Physical+runs[i].Length > off })
	return i < len(runs) && runs[i].Physical < off+length
}

// changedInodes are those whose place in an inode table is in blocks, and those
// that came into use or went out of it by their group's count. Those never used
// are left out.
func (v *Volume) changedInodes(was, now *marks, blocks []filewatch.Extent) []uint64 {
	type table struct {
		at    int64
		group int
	}
	tables := make([]table, len(now.groups))
	for i, g := range now.groups {
		tables[i] = table{int64(g.table) * v.s.blockSize, i}
	}
	slices.SortFunc(tables, func(a, b table) int { return cmp.Compare(a.at, b.at) })
	per, size := int64(v.s.inodesPerGroup), int64(v.s.inodeSize)
	var out []uint64
	add := func(group int, from, to int64) {
		used := per - int64(min(was.groups[group].unused, now.groups[group].unused))
		for i := max(0, from); i < min(to, used); i++ { // more unused than there are: an earlier state says anything
			out = append(out, uint64(group)*uint64(per)+uint64(i)+1)
		}
	}
	for _, e := range blocks {
		i := sort.Search(len(tables), func(i int) bool { return tables[i].at+per*size > e.Physical })
		for ; i < len(tables) && tables[i].at < e.Physical+e.Length; i++ {
			from := max(0, e.Physical-tables[i].at) / size
			to := min(per, (e.Physical+e.Length-tables[i].at+size-1)/size)
			add(tables[i].group, from, to)
		}
	}
	for i := range now.groups {
		if a, b := int64(was.groups[i].unused), int64(now.groups[i].unused); a != b {
			add(i, per-max(a, b), per-min(a, b))
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Some implements volume.Follower. The next pieces of the inode tables are read while
// one looks at those before.
func (v *Volume) Some(ctx context.Context, inodes []uint64, skip func(inode uint64, raw []byte) bool, fn func(*filewatch.Object, filewatch.Content, error) error) error {
	if len(inodes) == 0 {
		return nil
	}
	s := v.newScratch()
	var bufs [2][]byte
	next := v.startRuns(inodes, &bufs[0])
	for turn := 1; ; turn++ {
		now := <-next
		if now.err != nil {
			return now.err
		}
		if len(now.rest) > 0 {
			next = v.startRuns(now.rest, &bufs[turn%2])
		}
		err := v.someOfAll(ctx, now.runs, s, skip, fn)
		if len(now.rest) == 0 {
			return err
		}
		if err != nil {
			<-next // nobody else waits for it
			return err
		}
	}
}

// tableRuns are pieces of the inode tables that were read, and the inodes behind
// those.
type tableRuns struct {
	runs []tableRun
	rest []uint64
	err  error
}

// startRuns begins to read the pieces of the first inodes into buf.
func (v *Volume) startRuns(inodes []uint64, buf *[]byte) <-chan tableRuns {
	out := make(chan tableRuns, 1)
	go func() {
		if *buf == nil {
			*buf = make([]byte, someChunk)
		}
		var t tableRuns
		if t.runs, t.rest, t.err = v.nextRuns(inodes, *buf, nil); t.err == nil {
			t.err = v.readRuns(t.runs)
		}
		out <- t
	}()
	return out
}

func (v *Volume) someOfAll(ctx context.Context, runs []tableRun, s *scratch, skip func(inode uint64, raw []byte) bool, fn func(*filewatch.Object, filewatch.Content, error) error) error {
	for i := range runs {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		if err := v.someOf(&runs[i], s, skip, fn); err != nil {
			return err
		}
	}
	return nil
}

// someChunk is how much of the inode tables is read at once, in pieces.
const someChunk = 256 << 10

// tableRun is a piece of an inode table and the inodes that are wanted of it.
type tableRun struct {
	inodes []uint64
	at     int64
	b      []byte
}

// nextRuns adds the runs of the first inodes for which buf has room, and gives the
// inodes behind those.
func (v *Volume) nextRuns(inodes []uint64, buf []byte, to []tableRun) (runs []tableRun, rest []uint64, err error) {
	for len(inodes) > 0 {
		n, err := v.together(inodes, someChunk)
		if err != nil {
			return nil, nil, err
		}
		at := v.inodeAt(inodes[0])
		size := v.inodeAt(inodes[n-1]) + int64(v.s.inodeSize) - at
		if size > int64(len(buf)) {
			break // never with all of buf
		}
		to = append(to, tableRun{inodes[:n], at, buf[:size]})
		inodes, buf = inodes[n:], buf[size:]
	}
	return to, inodes, nil
}

func (v *Volume) readRuns(runs []tableRun) error {
	bufs, offs := make([][]byte, len(runs)), make([]int64, len(runs))
	for i := range runs {
		bufs[i], offs[i] = runs[i].b, runs[i].at
	}
	if err := v.dev.ReadMany(bufs, offs); err != nil {
		return fmt.Errorf("read inodes %d to %d: %w", runs[0].inodes[0], runs[len(runs)-1].inodes[0], err)
	}
	return nil
}

// someOf gives the objects of a run.
func (v *Volume) someOf(r *tableRun, s *scratch, skip func(inode uint64, raw []byte) bool, fn func(*filewatch.Object, filewatch.Content, error) error) error {
	for _, number := range r.inodes {
		if v.neverUsed(number) {
			continue
		}
		raw := r.b[v.inodeAt(number)-r.at:][:v.s.inodeSize]
		if v.fast.inodes[uint32(number)] == nil && skip(number, raw) {
			continue
		}
		if err := v.chunk(raw, number, v.inodeAt(number), s, v.report(fn)); err != nil {
			return err
		}
	}
	return nil
}

// neverUsed says whether an inode lies in the part of its group's table that is
// not in use, where Objects does not look.
func (v *Volume) neverUsed(n uint64) bool {
	per := uint64(v.s.inodesPerGroup)
	return (n-1)%per >= per-uint64(v.groups[(n-1)/per].unused) && v.fast.inodes[uint32(n)] == nil
}

// together is how many of the inodes, from the first on, are worth one read.
func (v *Volume) together(inodes []uint64, most int64) (int, error) {
	const gap = 16 << 10
	per := uint64(v.s.inodesPerGroup)
	if inodes[0] == 0 || inodes[0] > v.s.inodes {
		return 0, fmt.Errorf("inode %d of %d: %w", inodes[0], v.s.inodes, filewatch.ErrCorrupt)
	}
	first, last := v.inodeAt(inodes[0]), v.inodeAt(inodes[0])
	for n := 1; n < len(inodes); n++ {
		if (inodes[n]-1)/per != (inodes[0]-1)/per {
			return n, nil
		}
		at := v.inodeAt(inodes[n])
		if at > last+gap || at+int64(v.s.inodeSize)-first > most {
			return n, nil
		}
		last = at
	}
	return len(inodes), nil
}
