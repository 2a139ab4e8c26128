package baseline

import (
	"bytes"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/internal/sorted/sortedtest"
)

// someRecords are encoded records in order.
func someRecords() (out [][]byte) {
	var scratch []byte
	for i, name := range []string{"/a", "/a/b", "/a/c", "/d"} {
		r := &Record{Object: filewatch.Object{Volume: "v", Inode: uint64(i + 2), Type: filewatch.TypeFile, Size: 7}, Names: []string{name}}
		out = append(out, appendRecord(nil, r, &scratch))
	}
	return out
}

// The records that changed since the base was written.
func FuzzLastDelta(f *testing.F) {
	d := newLastDelta()
	d.void[objectKey{"v", 3}], d.void[objectKey{"w", 1 << 40}] = true, true
	for _, r := range someRecords() {
		d.add(r)
	}
	f.Add(d.append(nil))
	f.Add([]byte{0})
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := parseLastDelta(b)
		if (d == nil) == (err == nil) {
			t.Fatalf("%v and %v", d, err)
		}
		if err != nil {
			return
		}
		again, err := parseLastDelta(d.append(nil))
		if err != nil || len(again.void) != len(d.void) || len(again.records) != len(d.records) {
			t.Fatalf("%d void and %d records became %v: %v", len(d.void), len(d.records), again, err)
		}
	})
}

// The records that differ from the baseline's.
func FuzzDiffering(f *testing.F) {
	records := someRecords()
	f.Add((&differing{old: records[:2], new: records[1:]}).append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		d := &differing{}
		if d.parse(b) != nil {
			return
		}
		if c := newComparer(nil); len(b) < 1<<16 {
			c.run(&listed{d.old}, each(d.new))
		}
		again := &differing{}
		if err := again.parse(d.append(nil)); err != nil || len(again.old) != len(d.old) || len(again.new) != len(d.new) {
			t.Fatalf("%d and %d became %d and %d: %v", len(d.old), len(d.new), len(again.old), len(again.new), err)
		}
	})
}

// A base whose blocks are as their digests say and hold anything: what is found in
// it is a record or an error.
func FuzzLastBase(f *testing.F) {
	records := someRecords()
	f.Add(bytes.Join(records, nil), []byte("\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x00"), []byte{0})
	f.Fuzz(func(t *testing.T, entries, ids, delta []byte) {
		d, err := parseLastDelta(delta)
		if err != nil {
			return
		}
		var parts, places [][]byte
		for in := (decoder{rest: entries}); len(in.rest) > 0 && !in.bad; {
			whole := in.rest
			in.bytes()
			parts = append(parts, whole[:len(whole)-len(in.rest)])
		}
		for ; len(ids) >= idEntryLen; ids = ids[idEntryLen:] {
			places = append(places, ids[:idEntryLen])
		}
		r := &lastRecords{base: sortedtest.Of(t, parts), ids: sortedtest.Of(t, places), volumes: map[string]uint16{"v": 0}, delta: d}
		for c := r.all(); ; {
			encoded, err := c.next()
			if err != nil || encoded == nil {
				break
			}
			if _, _, err := encodedID(encoded); err != nil {
				t.Fatal(err)
			}
		}
		find := r.lookup()
		for inode := range uint64(8) {
			encoded, _, err := find.find(objectKey{"v", inode})
			if encoded != nil && err != nil {
				t.Fatalf("%x and %v", encoded, err)
			}
			if encoded == nil {
				continue
			}
			if volume, n, err := encodedID(encoded); err != nil || string(volume) != "v" || n != inode {
				t.Fatalf("inode %d: %q/%d, %v", inode, volume, n, err)
			}
		}
	})
}
