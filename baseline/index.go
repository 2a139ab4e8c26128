package baseline

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"slices"
	"sync"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Index finds records of a baseline by any of an object's names and by
// identity. It holds 16 bytes for each of them, not the records; a lookup
// decompresses one block. Safe for concurrent use.
type Index struct {
	b       *Baseline
	seed    maphash.Seed
	entries []indexEntry // sorted
	offsets []int64      // of each block in the body

	mu    sync.Mutex
	cache [4]cachedBlock // round robin
	next  int
}

type indexEntry struct {
	hash  uint64
	block uint32
}

type cachedBlock struct {
	number  int
	records []*Record
}

// Index reads the baseline once.
func (b *Baseline) Index() (*Index, error) {
	x := &Index{b: b, seed: maphash.MakeSeed()}
	for i := range x.cache {
		x.cache[i].number = -1
	}
	var off int64
	for i, at := range b.Header.Body.Blocks {
		x.offsets = append(x.offsets, off)
		off += at.Size
		records, err := x.load(i)
		if err != nil {
			return nil, fmt.Errorf("index baseline: %w", err)
		}
		for _, r := range records {
			x.entries = append(x.entries, indexEntry{x.hashID(r.ID()), uint32(i)})
			for _, name := range r.Names {
				x.entries = append(x.entries, indexEntry{maphash.String(x.seed, name), uint32(i)})
			}
		}
	}
	slices.SortFunc(x.entries, compareEntries)
	x.entries = slices.Clip(slices.Compact(x.entries))
	return x, nil
}

func compareEntries(a, b indexEntry) int {
	return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.block, b.block))
}

func (x *Index) hashID(id filewatch.ID) uint64 { return maphash.Comparable(x.seed, id) }

// Path returns the records one of whose names is path: none, or one per volume.
func (x *Index) Path(path string) ([]*Record, error) {
	return x.find(maphash.String(x.seed, path), func(r *Record) bool { return slices.Contains(r.Names, path) })
}

// ID returns the record of an object, nil when the baseline has none.
func (x *Index) ID(id filewatch.ID) (*Record, error) {
	found, err := x.find(x.hashID(id), func(r *Record) bool { return r.ID() == id })
	if len(found) == 0 {
		return nil, err
	}
	return found[0], err
}

func (x *Index) find(hash uint64, is func(*Record) bool) ([]*Record, error) {
	at, _ := slices.BinarySearchFunc(x.entries, indexEntry{hash: hash}, compareEntries)
	x.mu.Lock()
	defer x.mu.Unlock()
	var found []*Record
	for ; at < len(x.entries) && x.entries[at].hash == hash; at++ {
		records, err := x.block(int(x.entries[at].block))
		if err != nil {
			return nil, err
		}
		for _, r := range records {
			if is(r) {
				found = append(found, r)
			}
		}
	}
	return found, nil
}

// block gives a block's records, from the cache where it is there.
func (x *Index) block(n int) ([]*Record, error) {
	for i := range x.cache {
		if x.cache[i].number == n {
			return x.cache[i].records, nil
		}
	}
	records, err := x.load(n)
	if err != nil {
		return nil, err
	}
	x.cache[x.next] = cachedBlock{n, records}
	x.next = (x.next + 1) % len(x.cache)
	return records, nil
}

func (x *Index) load(n int) ([]*Record, error) {
	z, err := newBlockDecoder()
	if err != nil {
		return nil, err
	}
	defer z.Close()
	_, block, err := x.b.readBlock(z, x.offsets[n], x.b.Header.Body.Blocks[n].Size, nil, nil)
	if err != nil {
		return nil, err
	}
	var records []*Record
	var failed error
	eachRecord(block, func(r *Record, err error) bool {
		if err != nil {
			failed = err
			return false
		}
		records = append(records, r)
		return true
	})
	return records, failed
}

// Judge judges what an event says of an object: path is its path now, got what
// is known of it, nil when it is gone. rules nil means those of the baseline.
// For an event that comes before the object's content is on disk, leave
// filewatch.AttrContent out of got.Known.
func (x *Index) Judge(rules *filewatch.Rules, path string, got *Observed) (*Change, error) {
	if rules == nil {
		var err error
		if rules, err = x.b.Header.ParseRules(); err != nil {
			return nil, err
		}
	}
	want, err := x.Path(path)
	if err != nil {
		return nil, err
	}
	if got != nil && got.Inode != 0 {
		// A renamed object is known by its identity.
		if old, err := x.ID(got.ID()); err != nil {
			return nil, err
		} else if old != nil && (len(want) == 0 || slices.Contains(old.Names, path)) {
			return Judge(rules, path, old, got), nil
		}
		want = slices.DeleteFunc(want, func(r *Record) bool { return got.Volume != "" && r.Volume != got.Volume })
	}
	if len(want) == 0 {
		return Judge(rules, path, nil, got), nil
	}
	return Judge(rules, path, want[0], got), nil
}
