package guest

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"maps"
	"math/bits"
	"slices"

	"github.com/plumbline-sec/plumbline/internal/sorted"
)

// The kinds of entries in a base, each a letter before the rest; numbers of inodes
// and bytes are 8 bytes, big-endian, so that they sort.
const (
	keyPlace  = 'i' // inode, placeBody
	keyName   = 'n' // inode, directory, name
	keyOwner  = 'o' // class (1 byte), physical, then length and inode (uvarint): the reverse map
	keyParent = 'p' // directory, inode, name
)

func appendKey(b []byte, kind byte, numbers ...uint64) []byte {
	b = append(b, kind)
	for _, n := range numbers {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

// key2 takes the two numbers of a keyName or keyParent, and the name.
func key2(e []byte) (a, b uint64, name []byte, err error) {
	if len(e) < 17 {
		return 0, 0, nil, ErrMemory
	}
	return binary.BigEndian.Uint64(e[1:]), binary.BigEndian.Uint64(e[9:]), e[17:], nil
}

// baseWriter writes a volume's base while the volume is scanned.
type baseWriter struct {
	file   *sorted.NewFile
	owners *sorted.Sorter
	key    []byte
	places int
}

func newBaseWriter(dir sorted.Dir) (*baseWriter, error) {
	f, err := dir.Create("volume")
	if err != nil {
		return nil, err
	}
	return &baseWriter{file: f, owners: sorted.NewSorter(string(dir))}, nil
}

func (w *baseWriter) abandon() {
	w.file.Abandon()
	w.owners.Close()
}

func (w *baseWriter) add(entry []byte) error {
	_, err := w.file.Add(entry)
	return err
}

// place takes the next object in the order of inodes.
func (w *baseWriter) place(p *place) error {
	w.places++
	w.key = p.append(appendKey(w.key[:0], keyPlace, p.inode))
	if err := w.add(w.key); err != nil {
		return err
	}
	return p.owned(w.owners.Add)
}

// owned gives the object's entries of the reverse map. The class is so that the
// extent is at most 1<<class bytes long: who owns a byte then begins at most so far
// before it.
func (p *place) owned(fn func([]byte) error) error {
	var b []byte
	for _, e := range p.extents {
		if e.Length <= 0 {
			continue
		}
		b = append(b[:0], keyOwner, byte(bits.Len64(uint64(e.Length-1))))
		b = binary.BigEndian.AppendUint64(b, uint64(e.Physical))
		b = binary.AppendUvarint(binary.AppendUvarint(b, uint64(e.Length)), p.inode)
		if err := fn(b); err != nil {
			return err
		}
	}
	return nil
}

// owner decodes an entry of the reverse map.
func owner(e []byte) (start, end int64, inode uint64, err error) {
	if len(e) < 10 {
		return 0, 0, 0, ErrMemory
	}
	start = int64(binary.BigEndian.Uint64(e[2:]))
	d := memoryDecoder{rest: e[10:]}
	length := int64(d.uvarint())
	inode = d.uvarint()
	if start < 0 || start+length < start {
		return 0, 0, 0, ErrMemory
	}
	return start, start + length, inode, d.err
}

// finish adds names, which it puts in another order, and ends the file.
func (w *baseWriter) finish(t *names) (sorted.Ref, error) {
	defer w.owners.Close()
	err := w.names(t, keyName, (*name).inode, (*name).parent)
	if err == nil {
		err = w.owners.Each(w.add)
	}
	if err == nil {
		err = w.names(t, keyParent, (*name).parent, (*name).inode)
	}
	if err != nil {
		w.file.Abandon()
		return sorted.Ref{}, err
	}
	return w.file.Close()
}

// names adds all entries sorted by two of their numbers.
func (w *baseWriter) names(t *names, kind byte, first, second func(*name) uint64) error {
	slices.SortFunc(t.entries, func(a, b name) int {
		if c := cmp.Or(cmp.Compare(first(&a), first(&b)), cmp.Compare(second(&a), second(&b))); c != 0 {
			return c
		}
		return bytes.Compare(t.bytes(a.text), t.bytes(b.text))
	})
	for i := range t.entries {
		e := &t.entries[i]
		w.key = append(appendKey(w.key[:0], kind, first(e), second(e)), t.bytes(e.text)...)
		if err := w.add(w.key); err != nil {
			return err
		}
	}
	return nil
}

// rebase writes a base of what the old one and the overlay hold.
func (m *volumeMemory) rebase(dir sorted.Dir) error {
	old, err := dir.Open(m.base)
	if err != nil {
		return memoryError(err)
	}
	f, err := dir.Create("volume")
	if err != nil {
		return err
	}
	objects, err := m.fold(old, f.Writer)
	if err != nil {
		f.Abandon()
		return err
	}
	ref, err := f.Close()
	if err != nil {
		return err
	}
	m.base, m.objects, m.over = ref, objects, newOverlay()
	return nil
}

func (m *volumeMemory) fold(old *sorted.File, w *sorted.Writer) (objects int, err error) {
	fresh, err := m.over.encode()
	if err != nil {
		return 0, err
	}
	cursor := old.All()
	put := func(e []byte) error {
		if e[0] == keyPlace {
			objects++
		}
		_, err := w.Add(e)
		return err
	}
	for {
		e, err := cursor.Next()
		if err != nil {
			return 0, memoryError(err)
		}
		for len(fresh) > 0 && (e == nil || bytes.Compare(fresh[0], e) < 0) {
			if err := put(fresh[0]); err != nil {
				return 0, err
			}
			fresh = fresh[1:]
		}
		if e == nil {
			return objects, nil
		}
		void, err := m.over.voids(e)
		if err != nil {
			return 0, err
		}
		if void {
			continue
		}
		if err := put(e); err != nil {
			return 0, err
		}
	}
}

// voids says that an entry of the base does not hold any more.
func (o *overlay) voids(e []byte) (bool, error) {
	if len(e) < 9 {
		return false, ErrMemory
	}
	switch e[0] {
	case keyPlace, keyParent:
		return o.has(binary.BigEndian.Uint64(e[1:])), nil
	case keyName:
		_, parent, _, err := key2(e)
		return o.has(parent), err
	case keyOwner:
		_, _, inode, err := owner(e)
		return o.has(inode), err
	}
	return false, ErrMemory
}

// encode gives the overlay's entries as a base has them, in order.
func (o *overlay) encode() ([][]byte, error) {
	var out [][]byte
	var p place
	for _, inode := range slices.Sorted(maps.Keys(o.places)) {
		body := o.places[inode]
		if body == nil {
			continue
		}
		out = append(out, append(appendKey(nil, keyPlace, inode), body...))
		if err := body.decode(inode, &p); err != nil {
			return nil, err
		}
		if err := p.owned(func(e []byte) error { out = append(out, bytes.Clone(e)); return nil }); err != nil {
			return nil, err
		}
	}
	for _, e := range o.entries {
		out = append(out, append(appendKey(nil, keyName, e.inode, e.parent), e.name...),
			append(appendKey(nil, keyParent, e.parent, e.inode), e.name...))
	}
	slices.SortFunc(out, bytes.Compare)
	return out, nil
}
