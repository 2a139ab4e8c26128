package guest

import (
	"encoding/binary"
	"maps"
	"math"
	"slices"

	"github.com/plumbline-sec/plumbline/internal/keyed"
	"github.com/plumbline-sec/plumbline/internal/sorted"
)

const memoryMagic = "plumbline memory 5\n"

func (m *Memory) append(b []byte) []byte {
	b = append(b, memoryMagic...)
	b = binary.AppendUvarint(b, uint64(len(m.volumes)))
	for _, v := range m.volumes {
		b = appendText(b, v.id, v.kind, v.point, v.layout, v.refused)
		b = binary.AppendVarint(b, v.size)
		if v.clean {
			b = append(b, 1)
		} else {
			b = append(b, 0)
		}
		if v.refused != "" {
			continue
		}
		b = append(binary.AppendUvarint(b, uint64(len(v.marks))), v.marks...)
		b = append(b, v.key[:]...)
		b = appendText(b, v.base.Name, v.base.BLAKE3)
		for _, n := range []uint64{v.root, uint64(v.base.Size), uint64(v.base.Index), uint64(v.objects)} {
			b = binary.AppendUvarint(b, n)
		}
		b = v.over.append(b)
	}
	return b
}

// append encodes the places by inode, each as a distance from the one before and
// the body with its length, 0 for one that is gone; then the entries.
func (o *overlay) append(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(len(o.places)))
	var last uint64
	for _, inode := range slices.Sorted(maps.Keys(o.places)) {
		b = binary.AppendUvarint(b, inode-last)
		body := o.places[inode]
		b = append(binary.AppendUvarint(b, uint64(len(body))), body...)
		last = inode
	}
	b = binary.AppendUvarint(b, uint64(len(o.entries)))
	last = 0
	for _, e := range o.entries {
		b = binary.AppendUvarint(b, e.inode-last)
		b = binary.AppendUvarint(b, e.parent)
		b = appendText(b, e.name)
		last = e.inode
	}
	return b
}

// ParseMemory decodes what [Memory.Keep] made of a memory in dir; b stays in use.
func ParseMemory(dir string, b []byte) (*Memory, error) {
	if len(b) < len(memoryMagic) || string(b[:len(memoryMagic)]) != memoryMagic {
		return nil, ErrMemory
	}
	d := memoryDecoder{rest: b[len(memoryMagic):]}
	m := &Memory{dir: sorted.Dir(dir)}
	for n := d.uvarint(); n > 0 && d.err == nil; n-- {
		m.volumes = append(m.volumes, d.volume())
	}
	if d.err == nil && len(d.rest) > 0 {
		d.err = ErrMemory
	}
	if d.err != nil {
		return nil, d.err
	}
	return m, nil
}

func (d *memoryDecoder) volume() *volumeMemory {
	v := &volumeMemory{id: string(d.text()), kind: string(d.text()), point: string(d.text()), layout: string(d.text()), refused: string(d.text()), over: newOverlay()}
	v.size, v.clean = d.varint(), d.byte() != 0
	if v.refused == "" {
		v.marks = d.text()
		d.key(&v.key)
		v.base.Name, v.base.BLAKE3 = string(d.text()), string(d.text())
		v.root, v.base.Size, v.base.Index, v.objects = d.uvarint(), int64(d.uvarint()), int64(d.uvarint()), int(d.uvarint())
		d.overlay(v.over)
	}
	return v
}

func (d *memoryDecoder) key(k *keyed.Key) {
	if len(d.rest) < len(k) {
		d.err = ErrMemory
		return
	}
	d.rest = d.rest[copy(k[:], d.rest):]
}

func (d *memoryDecoder) overlay(o *overlay) {
	var inode uint64
	for n := d.uvarint(); n > 0 && d.err == nil; n-- {
		inode = d.step(inode)
		body := placeBody(d.text())
		if len(body) == 0 {
			body = nil
		} else if !body.valid() {
			d.err = ErrMemory
		}
		o.places[inode] = body
	}
	inode = 0
	for n := d.uvarint(); n > 0 && d.err == nil; n-- {
		inode = d.step(inode)
		e := entry{inode, d.uvarint(), string(d.text())}
		if last := len(o.entries) - 1; last >= 0 && compareEntries(o.entries[last], e) > 0 {
			d.err = ErrMemory
		}
		o.entries = append(o.entries, e)
	}
}

// memoryDecoder reads numbers and texts; the first error sticks.
type memoryDecoder struct {
	rest []byte
	err  error
}

// step reads an inode's distance from the one before.
func (d *memoryDecoder) step(last uint64) uint64 {
	n := d.uvarint()
	if n > math.MaxInt64-last {
		d.err = ErrMemory
		return last
	}
	return last + n
}

func (d *memoryDecoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.rest)
	if d.err != nil || n <= 0 || v > math.MaxInt64 {
		d.err = ErrMemory
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *memoryDecoder) varint() int64 {
	v, n := binary.Varint(d.rest)
	if d.err != nil || n <= 0 {
		d.err = ErrMemory
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *memoryDecoder) byte() byte {
	if d.err != nil || len(d.rest) == 0 {
		d.err = ErrMemory
		return 0
	}
	b := d.rest[0]
	d.rest = d.rest[1:]
	return b
}

func (d *memoryDecoder) text() []byte {
	n := d.uvarint()
	if d.err != nil || n > uint64(len(d.rest)) {
		d.err = ErrMemory
		return nil
	}
	b := d.rest[:n:n]
	d.rest = d.rest[n:]
	return b
}
