package tap

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/internal/sorted"
)

// What is kept is what was found, after any series of looks, whether it lies in the
// file or over it.
func TestKeptIsWhatWasFound(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed: %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	k := &kept{dir: sorted.Dir(t.TempDir()), over: map[string][]byte{}, most: 40}
	want := map[string]string{} // size of each object, by key
	volumes := []string{"one", "two", "three"}
	rebased := 0
	for round := range 60 {
		var voids []void
		found := map[string][]byte{}
		now := map[string]string{}
		maps.Copy(now, want)
		for _, volume := range volumes {
			v := void{prefix: appendVolume(nil, volume), whole: round == 0 || r.IntN(20) == 0}
			for inode := range uint64(50) {
				if !v.whole && r.IntN(12) > 0 {
					continue
				}
				key := string(appendKey(nil, volume, inode))
				v.inodes = append(v.inodes, inode)
				if delete(now, key); r.IntN(4) > 0 {
					s := &State{Object: filewatch.Object{Volume: volume, Inode: inode, Size: r.Int64N(1 << 40)}}
					found[key], now[key] = appendState(nil, s), fmt.Sprint(s.Size)
				}
			}
			if v.whole {
				v.inodes = nil
			}
			voids = append(voids, v)
		}
		slices.SortFunc(voids, func(a, b void) int { return bytes.Compare(a.prefix, b.prefix) })
		each := func(fn func([]byte) error) error {
			for _, key := range slices.Sorted(maps.Keys(found)) {
				if err := fn(found[key]); err != nil {
					return err
				}
			}
			return nil
		}
		// The pairs of a look lead from the one to the other.
		pairs := maps.Clone(want)
		err := merge(k.of(voids), each, func(key, old, new []byte) error {
			if old != nil && pairs[string(key)] != sizeOf(t, old) {
				t.Errorf("round %d: an object was %s, not %s", round, pairs[string(key)], sizeOf(t, old))
			}
			if delete(pairs, string(key)); new != nil {
				pairs[string(key)] = sizeOf(t, new)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(now, pairs); d != "" {
			t.Fatalf("round %d: pairs (want, got):\n%s", round, d)
		}
		was := k.name
		if err := k.update(voids, each); err != nil {
			t.Fatal(err)
		}
		if k.name != was {
			rebased++
		}
		got := map[string]string{}
		var last []byte
		for e, err := range k.beginning(nil) {
			if err != nil {
				t.Fatal(err)
			}
			key, _ := split(e)
			if bytes.Compare(last, key) >= 0 {
				t.Fatalf("round %d: out of order", round)
			}
			last = bytes.Clone(key)
			got[string(key)] = sizeOf(t, e)
		}
		if d := cmp.Diff(now, got); d != "" {
			t.Fatalf("round %d: kept (want, got):\n%s", round, d)
		}
		want = now
	}
	if rebased < 3 || rebased > 40 {
		t.Errorf("written anew %d times", rebased)
	}
	names, err := k.volumes()
	if err != nil || len(names) != len(volumes) {
		t.Errorf("volumes %q, %v", names, err)
	}
	if err := k.tidy(nil); err != nil {
		t.Error(err)
	}
	if files, err := os.ReadDir(string(k.dir)); err != nil || len(files) != 1 {
		t.Errorf("files %v, %v", files, err)
	}
}

func sizeOf(t *testing.T, entry []byte) string {
	t.Helper()
	s, err := parseEntry(entry)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(s.Size)
}

// What someone changed in the file is not taken for what was there.
func TestDamageOfWhatIsKeptIsFound(t *testing.T) {
	k := &kept{dir: sorted.Dir(t.TempDir()), over: map[string][]byte{}}
	s := &State{Object: filewatch.Object{Volume: "v", Inode: 3}}
	found := func(fn func([]byte) error) error { return fn(appendState(nil, s)) }
	if err := k.update([]void{{prefix: appendVolume(nil, "v"), whole: true}}, found); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(string(k.dir), k.name)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[20] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := k.state(appendKey(nil, "v", 3)); !errors.Is(err, errKept) {
		t.Errorf("state: %v", err)
	}
	for _, err := range k.beginning(nil) {
		if !errors.Is(err, errKept) {
			t.Errorf("beginning: %v", err)
		}
	}
}
