package sorted

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
)

// written is a file of the entries.
func written(t testing.TB, entries [][]byte) ([]byte, Ref) {
	t.Helper()
	var out bytes.Buffer
	w := NewWriter(&out)
	for _, e := range entries {
		if _, err := w.Add(e); err != nil {
			t.Fatal(err)
		}
	}
	ref, err := w.Finish()
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes(), ref
}

// entriesLike those of a scan: numbers with something behind, some of them long.
func entriesLike(n int) [][]byte {
	random := rand.New(rand.NewPCG(1, 2))
	var out [][]byte
	for i := range n {
		e := binary.BigEndian.AppendUint64(nil, uint64(i)*3+1)
		size := random.IntN(60)
		if random.IntN(200) == 0 {
			size = random.IntN(3 * blockLen)
		}
		out = append(out, append(e, bytes.Repeat([]byte{byte(i)}, size)...))
	}
	return out
}

func TestSeekFindsWhatIsThere(t *testing.T) {
	entries := entriesLike(5000)
	b, ref := written(t, entries)
	f, err := Open(bytes.NewReader(b), ref)
	if err != nil {
		t.Fatal(err)
	}
	if f.Blocks() < 20 {
		t.Fatalf("%d blocks", f.Blocks())
	}
	forward := f.All()
	for i := uint64(0); i < 3*5000+3; i++ {
		key := binary.BigEndian.AppendUint64(nil, i)
		at, _ := slices.BinarySearchFunc(entries, key, bytes.Compare)
		var want []byte
		if at < len(entries) {
			want = entries[at]
		}
		if got, err := f.All().Seek(key); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("seek %d: %x, %v; want %x", i, got, err, want)
		}
		if i%7 != 0 && i%1000 > 5 {
			continue // in steps and leaps
		}
		if got, err := forward.To(key); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("to %d: %x, %v; want %x", i, got, err, want)
		}
	}
	all := f.All()
	for i := range entries {
		if got, err := all.Next(); err != nil || !bytes.Equal(got, entries[i]) {
			t.Fatalf("entry %d: %x, %v", i, got, err)
		}
	}
	if got, err := all.Next(); got != nil || err != nil {
		t.Fatalf("after the last: %x, %v", got, err)
	}
}

// Cursors over more blocks than are kept do not see each other's: what one is in the
// middle of stays what it is though its block's memory is used again.
func TestCursorsSideBySide(t *testing.T) {
	entries := entriesLike(120_000)
	b, ref := written(t, entries)
	f, err := Open(bytes.NewReader(b), ref)
	if err != nil {
		t.Fatal(err)
	}
	if f.Blocks() < 2*maxKept {
		t.Fatalf("%d blocks", f.Blocks())
	}
	slow, fast, jumping := f.All(), f.All(), f.All()
	random := rand.New(rand.NewPCG(3, 4))
	for i := range entries {
		if got, err := fast.Next(); err != nil || !bytes.Equal(got, entries[i]) {
			t.Fatalf("entry %d: %x, %v", i, got, err)
		}
		if i%1000 == 0 {
			if got, err := slow.Next(); err != nil || !bytes.Equal(got, entries[i/1000]) {
				t.Fatalf("entry %d, slowly: %x, %v", i/1000, got, err)
			}
		}
		if i%50 == 0 {
			at := random.IntN(len(entries))
			if got, err := jumping.Seek(entries[at]); err != nil || !bytes.Equal(got, entries[at]) {
				t.Fatalf("jump to %d: %x, %v", at, got, err)
			}
		}
	}
}

// Whatever bit is wrong, reading everything finds it.
func TestDamageIsFound(t *testing.T) {
	b, ref := written(t, entriesLike(300))
	for at := 0; at < len(b); at += 97 {
		bad := bytes.Clone(b)
		bad[at] ^= 4
		if err := readWhole(bad, ref); !errors.Is(err, ErrDamaged) {
			t.Errorf("byte %d of %d: %v", at, len(b), err)
		}
	}
	for _, cut := range []int{0, 1, len(b) / 2, len(b) - 1} {
		if err := readWhole(b[:cut], ref); !errors.Is(err, ErrDamaged) {
			t.Errorf("cut to %d of %d: %v", cut, len(b), err)
		}
	}
	if err := readWhole(b, ref); err != nil {
		t.Error(err)
	}
}

func readWhole(b []byte, ref Ref) error {
	f, err := Open(bytes.NewReader(b), ref)
	if err != nil {
		return err
	}
	for c := f.All(); ; {
		if e, err := c.Next(); e == nil || err != nil {
			return err
		}
	}
}

func TestSorterSortsMoreThanItHolds(t *testing.T) {
	s := NewSorter(t.TempDir())
	defer s.Close()
	const n = 300_000
	for i := range n {
		if err := s.Add(fmt.Appendf(nil, "entry %09d of some length", (i*7919)%n)); err != nil {
			t.Fatal(err)
		}
	}
	i := 0
	err := s.Each(func(e []byte) error {
		if want := fmt.Sprintf("entry %09d of some length", i); string(e) != want {
			return fmt.Errorf("%q, want %q", e, want)
		}
		i++
		return nil
	})
	if err != nil || i != n {
		t.Fatalf("%d entries: %v", i, err)
	}
	if len(s.runs) < 2 {
		t.Error("nothing was spilled")
	}
}

// A block is entries that are as long as they should be, or an error.
func FuzzBlock(f *testing.F) {
	b, ref := written(f, entriesLike(40))
	f.Add(b[:ref.Index])
	f.Add([]byte{0, 1, 'a', 1, 0, 1, 0})
	f.Fuzz(func(t *testing.T, raw []byte) {
		file := &File{blocks: make([]blockAt, 1), kept: map[int]*keptBlock{0: {raw: raw, verified: true}}}
		total := 0
		for c := file.All(); ; {
			e, err := c.Next()
			if e != nil && err != nil {
				t.Fatalf("%x and %v", e, err)
			}
			if e == nil {
				return
			}
			if total += len(e); len(e) > len(raw) {
				t.Fatalf("an entry of %d bytes in a block of %d", len(e), len(raw))
			}
		}
	})
}

// An index that is as its digest says may still be anything.
func FuzzIndex(f *testing.F) {
	b, ref := written(f, entriesLike(400))
	f.Add(b[ref.Index:], ref.Index)
	f.Fuzz(func(t *testing.T, index []byte, at int64) {
		file := &File{r: bytes.NewReader(b), ref: Ref{Index: at}, kept: map[int]*keptBlock{}}
		if file.parse(index) != nil {
			return
		}
		for _, key := range [][]byte{nil, {0}, b[:8], bytes.Repeat([]byte{255}, 40)} {
			c := file.All()
			c.Seek(key)
			c.To(key)
			c.Next()
		}
	})
}
