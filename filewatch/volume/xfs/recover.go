package xfs

import (
	"fmt"
	"maps"
	"slices"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Log item types.
const (
	itemEFI      = 0x1236
	itemEFD      = 0x1237
	itemUnlink   = 0x1238 // up to itemInode-1: only IRIX wrote them
	itemInode    = 0x123b
	itemBuffer   = 0x123c
	itemDquot    = 0x123d
	itemQuotaOff = 0x123e
	itemCreate   = 0x123f
	itemRUI      = 0x1240
	itemRUD      = 0x1241
	itemCUI      = 0x1242
	itemCUD      = 0x1243
	itemBUI      = 0x1244
	itemBUD      = 0x1245
	itemATTRI    = 0x1246
	itemATTRD    = 0x1247
	itemXMI      = 0x1248
	itemXMD      = 0x1249
	itemLastRT   = 0x124f
)

// maxSectors bounds the memory of a replayed log: 192 MiB.
const maxSectors = 192 << 20 / 512

// recover replays the log into memory, then reads the superblock again.
func (v *Volume) recover(size int64) error {
	if v.s.logStart == 0 {
		return fmt.Errorf("log is on another device: %w", filewatch.ErrNotSupported)
	}
	start, err := v.s.fsb(v.s.logStart)
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	if start+int64(v.s.logBlocks)*v.s.blockSize > int64(v.s.blocks)*v.s.blockSize || v.s.logBlocks == 0 {
		return fmt.Errorf("log of %d blocks at %#x: %w", v.s.logBlocks, start, filewatch.ErrCorrupt)
	}
	r := &ring{v: v, start: start, sectors: int64(v.s.logBlocks) * v.s.blockSize / logSector}
	first, last, cycle, err := r.span()
	if err != nil || cycle == 0 {
		return err
	}
	p := &replayer{v: v, cancelled: map[extentKey]int{}, intents: map[uint64]*item{}}
	for _, pass := range []func(*transaction) error{p.collect, p.apply} {
		a := &assembler{open: map[uint32]*transaction{}, commit: pass}
		if err := r.walk(first, last, a.record); err != nil {
			return fmt.Errorf("replay log: %w", err)
		}
	}
	v.dev.order = slices.Sorted(maps.Keys(v.dev.sectors))
	if err := p.unfinished(); err != nil {
		return fmt.Errorf("replay log: %w", err)
	}
	v.Replayed = fmt.Sprintf("%d transactions, %d sectors", p.transactions, len(v.dev.sectors))
	v.s, err = readSuper(v.dev, size)
	if err != nil {
		return fmt.Errorf("after log replay: %w", err)
	}
	return nil
}

// extentKey is a buffer in sectors.
type extentKey struct{ block, length uint64 }

// replayer applies committed transactions to the overlay, as the kernel's
// recovery does (fs/xfs/xfs_log_recover.c, *_item_recover.c).
type replayer struct {
	v            *Volume
	cancelled    map[extentKey]int
	intents      map[uint64]*item
	transactions int
}

// collect is the first pass: buffers that are cancelled because their blocks
// were freed.
func (p *replayer) collect(t *transaction) error {
	for _, i := range t.items {
		if i.kind() != itemBuffer {
			continue
		}
		f, err := bufferFormat(i)
		if err != nil {
			return err
		}
		if f.flags&bufferCancel != 0 {
			p.cancelled[f.key]++
		}
	}
	return nil
}

// apply is the second pass. Within a transaction buffers come first, then inodes
// and the rest, then buffers of inodes, then cancellations
// (xlog_recover_reorder_trans).
func (p *replayer) apply(t *transaction) error {
	p.transactions++
	order := func(i *item) int {
		switch i.kind() {
		case itemBuffer:
			f, err := bufferFormat(i)
			switch {
			case err != nil:
				return 0
			case f.flags&bufferCancel != 0:
				return 3
			case f.flags&bufferInode != 0:
				return 2
			}
			return 0
		case itemCreate:
			return 0
		}
		return 1
	}
	slices.SortStableFunc(t.items, func(a, b *item) int { return order(a) - order(b) })
	for _, i := range t.items {
		if err := p.item(t, i); err != nil {
			return err
		}
		if len(p.v.dev.sectors) > maxSectors {
			return fmt.Errorf("log changes more than %d sectors: %w", maxSectors, filewatch.ErrNotSupported)
		}
	}
	return nil
}

func (p *replayer) item(t *transaction, i *item) error {
	switch kind := i.kind(); kind {
	case itemBuffer:
		return p.buffer(t.lsn, i)
	case itemInode:
		return p.inode(t.lsn, i)
	case itemCreate:
		return p.create(i)
	case itemBUI, itemATTRI, itemXMI:
		if len(i.regions[0]) < 16 {
			return fmt.Errorf("intent of %d bytes: %w", len(i.regions[0]), filewatch.ErrCorrupt)
		}
		p.intents[le.Uint64(i.regions[0][8:])] = i
	case itemBUD, itemATTRD, itemXMD:
		if len(i.regions[0]) < 16 {
			return fmt.Errorf("intent of %d bytes: %w", len(i.regions[0]), filewatch.ErrCorrupt)
		}
		delete(p.intents, le.Uint64(i.regions[0][8:]))
	case itemDquot, itemQuotaOff, itemEFI, itemEFD, itemRUI, itemRUD, itemCUI, itemCUD:
		// quotas and the accounts of free, owned and shared space: files do not
		// depend on them
	default:
		if kind < itemEFI || kind > itemLastRT || kind >= itemUnlink && kind < itemInode {
			return fmt.Errorf("log item of type %#x: %w", kind, filewatch.ErrNotSupported)
		}
	}
	return nil
}

// write puts bytes at an offset of the volume into the overlay.
func (p *replayer) write(at int64, b []byte) error {
	o := p.v.dev
	for len(b) > 0 {
		n := at / 512
		s := o.sectors[n]
		if s == nil {
			s = new([512]byte)
			if _, err := o.dev.ReadAt(s[:], n*512); err != nil {
				return fmt.Errorf("read sector %d: %w", n, err)
			}
			o.sectors[n] = s
		}
		k := copy(s[at%512:], b)
		b, at = b[k:], at+int64(k)
	}
	return nil
}

// read reads through the overlay while it is being built.
func (p *replayer) read(at int64, b []byte) error {
	if _, err := p.v.dev.dev.ReadAt(b, at); err != nil {
		return fmt.Errorf("read at %#x: %w", at, err)
	}
	for n := at / 512; n*512 < at+int64(len(b)); n++ {
		if s := p.v.dev.sectors[n]; s != nil {
			lo, hi := max(at, n*512), min(at+int64(len(b)), n*512+512)
			copy(b[lo-at:hi-at], s[lo-n*512:])
		}
	}
	return nil
}

// unfinished turns intents without their done item into pending changes: block
// maps are completed as recovery would, other updates make the inode one that
// cannot be measured.
func (p *replayer) unfinished() error {
	v := p.v
	v.pending = intents{maps: map[uint64][]filewatch.Extent{}, unfinished: map[uint64]error{}}
	for _, id := range slices.Sorted(maps.Keys(p.intents)) {
		b := p.intents[id].regions[0]
		switch p.intents[id].kind() {
		case itemBUI:
			if err := p.mapIntent(b); err != nil {
				return err
			}
		case itemATTRI: // 16: pad, 24: inode
			p.mark(b, 24, "an attribute update")
		case itemXMI: // 16 and 24: inodes
			p.mark(b, 16, "an exchange of contents")
			p.mark(b, 24, "an exchange of contents")
		}
	}
	return nil
}

func (p *replayer) mark(b []byte, off int, what string) {
	if off+8 <= len(b) {
		n := le.Uint64(b[off:])
		p.v.pending.unfinished[n] = fmt.Errorf("inode %d: log ends in the middle of %s: %w", n, what, filewatch.ErrNotSupported)
	}
}

// mapIntent is struct xfs_bui_log_format: 4 count, 16 extents of owner, block,
// logical block, length, flags (32 bytes).
func (p *replayer) mapIntent(b []byte) error {
	const unmap, attr, unwritten, realtime = 2, 1 << 31, 1 << 30, 1 << 29
	for i := range int(le.Uint32(b[4:])) {
		if 16+32*(i+1) > len(b) {
			return fmt.Errorf("map intent of %d bytes: %w", len(b), filewatch.ErrCorrupt)
		}
		e := b[16+32*i:]
		owner, flags := le.Uint64(e), le.Uint32(e[28:])
		if flags&(attr|realtime) != 0 {
			p.v.pending.unfinished[owner] = fmt.Errorf("inode %d: log ends in the middle of a change of its blocks: %w", owner, filewatch.ErrNotSupported)
			continue
		}
		at, err := p.v.s.fsb(le.Uint64(e[8:]))
		if err != nil {
			return fmt.Errorf("map intent of inode %d: %w", owner, err)
		}
		bs := p.v.s.blockSize
		x := filewatch.Extent{Logical: int64(le.Uint64(e[16:])) * bs, Physical: at, Length: int64(le.Uint32(e[24:])) * bs}
		if x.Logical < 0 || flags&0xFF == unmap || flags&unwritten != 0 {
			x.Physical = -1
		}
		p.v.pending.maps[owner] = append(p.v.pending.maps[owner], x)
	}
	return nil
}
