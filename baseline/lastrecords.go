package baseline

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/plumbline-sec/plumbline/internal/sorted"
)

// lastBase is most records of a state, as they were when they were last all
// written: Records as encoded, in order, and IDs to find them by.
type lastBase struct {
	Records sorted.Ref `json:"records"`
	IDs     sorted.Ref `json:"ids"`
	// Volumes are numbered in IDs.
	Volumes []string `json:"volumes"`
}

// An entry of IDs: number of the volume (2 bytes), inode (8), block of Records (4),
// big-endian.
const (
	idLen      = 2 + 8
	idEntryLen = idLen + 4
)

// lastDelta is what was found since the base was written.
type lastDelta struct {
	// void are the objects of which the base's record does not hold.
	void map[objectKey]bool
	// records are those that hold instead, in order.
	records [][]byte
	byID    map[objectKey][]byte
}

// objectKey is one object, whatever its generation.
type objectKey struct {
	volume string
	inode  uint64
}

func newLastDelta() *lastDelta {
	return &lastDelta{void: map[objectKey]bool{}, byID: map[objectKey][]byte{}}
}

// add takes a record, in order.
func (d *lastDelta) add(encoded []byte) error {
	volume, inode, err := encodedID(encoded)
	if err != nil {
		return err
	}
	d.records = append(d.records, encoded)
	d.byID[objectKey{string(volume), inode}] = encoded
	return nil
}

// append encodes the delta: void objects (volume and inode), with their number
// before them, then the records.
func (d *lastDelta) append(b []byte) []byte {
	keys := make([]objectKey, 0, len(d.void))
	for k := range d.void {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, compareKeys)
	b = binary.AppendUvarint(b, uint64(len(keys)))
	for _, k := range keys {
		b = binary.AppendUvarint(appendBytes(b, k.volume), k.inode)
	}
	b = slices.Grow(b, sizeOf(d.records))
	for _, encoded := range d.records {
		b = append(b, encoded...)
	}
	return b
}

func parseLastDelta(b []byte) (*lastDelta, error) {
	d := newLastDelta()
	in := decoder{rest: b}
	for n := in.uvarint(uint64(len(b))); n > 0 && !in.bad; n-- {
		k := objectKey{volume: string(in.bytes())}
		k.inode = in.uvarint(1<<64 - 1)
		d.void[k] = true
	}
	for len(in.rest) > 0 && !in.bad {
		whole := in.rest
		in.bytes()
		if in.bad {
			break
		}
		encoded := whole[:len(whole)-len(in.rest)]
		if err := orderly(d.records, encoded); err != nil {
			return nil, err
		}
		if err := d.add(encoded); err != nil {
			return nil, err
		}
	}
	if in.bad {
		return nil, fmt.Errorf("changed records: %w", ErrDamaged)
	}
	return d, nil
}

// orderly says whether a record comes after those before it.
func orderly(before [][]byte, encoded []byte) error {
	b, err := body(encoded)
	if err != nil || len(before) == 0 {
		return err
	}
	last, err := body(before[len(before)-1])
	if err != nil {
		return err
	}
	order, err := compareBodies(last, b)
	if err == nil && order > 0 {
		err = fmt.Errorf("records out of order: %w", ErrDamaged)
	}
	return err
}

// lastRecords are the records of a state: base and delta.
type lastRecords struct {
	base    *sorted.File
	ids     *sorted.File
	volumes map[string]uint16
	delta   *lastDelta
}

func openLastRecords(dir string, base *lastBase, delta []byte) (r *lastRecords, err error) {
	r = &lastRecords{volumes: map[string]uint16{}}
	for i, v := range base.Volumes {
		r.volumes[v] = uint16(i)
	}
	if r.delta, err = parseLastDelta(delta); err != nil {
		return nil, err
	}
	if r.base, err = sorted.Dir(dir).Open(base.Records); err != nil {
		return nil, err
	}
	r.ids, err = sorted.Dir(dir).Open(base.IDs)
	return r, err
}

// lastLookup finds records by object, in the order of volumes and inodes.
type lastLookup struct {
	r     *lastRecords
	ids   *sorted.Cursor
	block *sorted.Cursor // of the records
}

func (r *lastRecords) lookup() *lastLookup { return &lastLookup{r, r.ids.All(), r.base.All()} }

// find gives the record of an object, nil for none, and whether it is the base's.
// It is valid until find is called again.
func (l *lastLookup) find(k objectKey) (encoded []byte, base bool, err error) {
	if encoded := l.r.delta.byID[k]; encoded != nil {
		return encoded, false, nil
	}
	volume, ok := l.r.volumes[k.volume]
	if !ok || l.r.delta.void[k] {
		return nil, false, nil
	}
	key := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint16(nil, volume), k.inode)
	e, err := l.ids.To(key)
	if err != nil || !bytes.HasPrefix(e, key) {
		return nil, false, err
	}
	if len(e) != idEntryLen {
		return nil, false, fmt.Errorf("place of a record: %w", ErrDamaged)
	}
	if err := l.block.Enter(int(binary.BigEndian.Uint32(e[idLen:]))); err != nil {
		return nil, false, err
	}
	for {
		encoded, err := l.block.Next()
		if err != nil {
			return nil, false, err
		}
		if encoded == nil {
			break
		}
		volume, inode, err := encodedID(encoded)
		if err != nil {
			return nil, false, err
		}
		if inode == k.inode && string(volume) == k.volume {
			return encoded, true, nil
		}
	}
	return nil, false, fmt.Errorf("a record is not where it should be: %w", ErrDamaged)
}

// lastCursor goes through the records in order.
type lastCursor struct {
	r     *lastRecords
	base  *sorted.Cursor
	delta [][]byte
	// skip says which objects are left out.
	skip func(volume []byte, inode uint64) bool
}

func (r *lastRecords) all() *lastCursor {
	return &lastCursor{r: r, base: r.base.All(), delta: r.delta.records, skip: func([]byte, uint64) bool { return false }}
}

// next gives the next record, nil at the end.
func (c *lastCursor) next() ([]byte, error) {
	for {
		e, err := c.base.Peek()
		if err != nil {
			return nil, err
		}
		var volume []byte
		var inode uint64
		if e != nil {
			if volume, inode, err = encodedID(e); err != nil {
				return nil, err
			}
		}
		if len(c.delta) > 0 && (e == nil || compareEncoded(c.delta[0], e) < 0) {
			e, c.delta = c.delta[0], c.delta[1:]
			if volume, inode, err = encodedID(e); err != nil {
				return nil, err
			}
		} else if e == nil {
			return nil, nil
		} else if c.base.Next(); c.r.delta.void[objectKey{string(volume), inode}] {
			continue
		}
		if !c.skip(volume, inode) {
			return e, nil
		}
	}
}

// encodedID finds volume and inode in an encoded record.
func encodedID(encoded []byte) (volume []byte, inode uint64, err error) {
	d := decoder{rest: encoded}
	d.uvarint(maxRecord)
	d.bytes() // path
	volume = d.bytes()
	inode = binary.BigEndian.Uint64(d.take(8))
	if d.bad {
		return nil, 0, fmt.Errorf("record of the last scan: %w", ErrDamaged)
	}
	return volume, inode, nil
}

// lastBaseWriter writes a base.
type lastBaseWriter struct {
	dir     sorted.Dir
	records *sorted.NewFile
	ids     *sorted.Sorter
	base    lastBase
	volumes map[string]uint16
	entry   []byte
}

func newLastBaseWriter(dir string) (*lastBaseWriter, error) {
	f, err := sorted.Dir(dir).Create("records")
	if err != nil {
		return nil, err
	}
	return &lastBaseWriter{dir: sorted.Dir(dir), records: f, ids: sorted.NewSorter(dir), volumes: map[string]uint16{}}, nil
}

// abandon removes what was written.
func (w *lastBaseWriter) abandon() {
	w.records.Abandon()
	w.ids.Close()
}

// add takes the next record.
func (w *lastBaseWriter) add(encoded []byte) error {
	name, inode, err := encodedID(encoded)
	if err != nil {
		return err
	}
	volume, ok := w.volumes[string(name)]
	if !ok {
		if len(w.volumes) > 1<<16-1 {
			return fmt.Errorf("more than %d volumes", len(w.volumes))
		}
		volume = uint16(len(w.volumes))
		w.volumes[string(name)] = volume
		w.base.Volumes = append(w.base.Volumes, string(name))
	}
	block, err := w.records.Add(encoded)
	if err != nil {
		return err
	}
	w.entry = binary.BigEndian.AppendUint16(w.entry[:0], volume)
	w.entry = binary.BigEndian.AppendUint64(w.entry, inode)
	return w.ids.Add(binary.BigEndian.AppendUint32(w.entry, block))
}

func (w *lastBaseWriter) finish() (base lastBase, err error) {
	defer w.ids.Close()
	if w.base.Records, err = w.records.Close(); err != nil {
		return base, err
	}
	f, err := w.dir.Create("ids")
	if err != nil {
		return base, err
	}
	err = w.ids.Each(func(e []byte) error {
		_, err := f.Add(e)
		return err
	})
	if err != nil {
		f.Abandon()
		return base, err
	}
	w.base.IDs, err = f.Close()
	return w.base, err
}
