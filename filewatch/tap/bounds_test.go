package tap

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/internal/sorted"
)

func nothing(func([]byte) error) error { return nil }

// What is held in memory of states is bounded in bytes, and nothing of it is lost.
func TestStatesInMemoryAreBoundedInBytes(t *testing.T) {
	k := &kept{dir: sorted.Dir(t.TempDir()), over: map[string][]byte{}, room: 1 << 20}
	if err := k.update(nil, nothing); err != nil {
		t.Fatal(err)
	}
	s := &State{Object: filewatch.Object{Volume: "v", Xattrs: []filewatch.Xattr{{Name: "user.x", Value: make([]byte, 200<<10)}}}}
	const objects = 23
	for i := range 2 * objects {
		s.Inode = uint64(i%objects + 1)
		e := appendState(nil, s)
		if err := k.update([]void{{prefix: appendVolume(nil, "v"), inodes: []uint64{s.Inode}}}, func(fn func([]byte) error) error { return fn(e) }); err != nil {
			t.Fatal(err)
		}
		held := 0
		for key, body := range k.over {
			held += len(key) + len(body)
		}
		if held != k.held || held > k.room {
			t.Fatalf("%d bytes held, counted %d", held, k.held)
		}
	}
	n := 0
	for _, err := range k.beginning(nil) {
		if n++; err != nil {
			t.Fatal(err)
		}
	}
	if n != objects {
		t.Errorf("%d objects of %d", n, objects)
	}
}

// An object of names without end is kept with some, says so, and has the rule of the
// strictest.
func TestNamesOfAStateAreBounded(t *testing.T) {
	var names []string
	for i := range 65_000 {
		names = append(names, fmt.Sprintf("%s/%06d", strings.Repeat("/"+strings.Repeat("d", 200), 6), i))
	}
	names = append(names, "/strict")
	level := func(name string) filewatch.Level {
		if name == "/strict" {
			return filewatch.Verify
		}
		return filewatch.Ignore
	}
	of := func(names []string) *State { return file(named(slices.Clone(names)...)) }
	s := of(names)
	if s.cut(level); !s.Cut || s.Strictest != "/strict" || len(s.Names) == 0 || len(appendState(nil, s)) > 2*maxNames || !strings.Contains(s.Unread, "names of more than") {
		t.Fatalf("cut %v, strictest %q, %d names, %q", s.Cut, s.Strictest, len(s.Names), s.Unread)
	}
	few := of(names[:3])
	if few.cut(level); few.Cut || few.Unread != "" || len(few.Names) != 3 {
		t.Errorf("few: %+v", few)
	}
	// A name that comes before others pushes others out of what is kept: these are there.
	first := "/!" + strings.Repeat("a", 2000)
	more := of(append([]string{first}, names...))
	more.cut(level)
	if d := cmp.Diff([]string{"link " + names[0] + " -> " + first}, words(Compare(s, more))); d != "" {
		t.Errorf("one more (want, got):\n%s", d)
	}
	if d := cmp.Diff([]string{"unlink " + first}, words(Compare(more, s))); d != "" {
		t.Errorf("one less (want, got):\n%s", d)
	}
	if got := words(Compare(few, s)); len(got) == 0 || got[len(got)-1] != "unknown "+names[0]+": "+s.Unread {
		t.Errorf("that there are more is not told: %q", got[max(0, len(got)-1):])
	}
	ends := Compare(s, nil)
	if len(ends) != len(s.Names) || ends[len(ends)-1].Detail != s.Unread {
		t.Errorf("%d ends, the last %+v", len(ends), ends[len(ends)-1])
	}
	// Even the first may be too long to be kept.
	long := of([]string{"/" + strings.Repeat("a", maxNames)})
	long.cut(level)
	if ends := Compare(long, nil); !long.Cut || len(ends) != 1 || ends[0].Detail != long.Unread {
		t.Errorf("an object whose name is too long: cut %v, ends %+v", long.Cut, ends)
	}
}

// What goes, comes back and goes again is told each time, and so many gaps that they are
// not told one by one do not silence what comes later.
func TestGapsAreToldAgain(t *testing.T) {
	var alerts []filewatch.Alert
	s := &Source{Next: 1, told: map[string]bool{}, Alert: func(a filewatch.Alert) { alerts = append(alerts, a) }}
	count := func(l *look) int {
		n := len(alerts)
		s.tellGaps(l, false)
		return len(alerts) - n
	}
	gone := &look{gone: []string{"v"}}
	if a, b, c, d := count(gone), count(gone), count(&look{}), count(gone); a != 1 || b != 0 || c != 0 || d != 1 {
		t.Errorf("gone: %d, still gone: %d, back: %d, gone again: %d alerts", a, b, c, d)
	}
	many := &look{everything: true}
	for i := range 2 * maxTold {
		many.gaps = append(many.gaps, filewatch.Gap{What: fmt.Sprint("inode ", i), Reason: "damaged"})
	}
	if n := count(many); n != maxTold+1 {
		t.Errorf("%d alerts of many gaps", n)
	}
	one := &look{everything: true, gaps: []filewatch.Gap{{What: "inode 7000", Reason: "damaged"}}}
	if n := count(one); n != 1 {
		t.Errorf("%d alerts of a gap after many", n)
	}
}

// Where what is kept is damaged that is one gap, and the watch goes on from what is there.
func TestSourceBeginsAnewAfterDamage(t *testing.T) {
	d := newGuestDisk(t, "raw")
	w := watch(t, d.m.QMP)
	w.step(func() {
		files, err := filepath.Glob(filepath.Join(w.Root, "*", "states*"))
		if err != nil || len(files) == 0 {
			t.Fatalf("states: %v, %v", files, err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for i := range b {
				b[i] ^= 0x55
			}
			if err := os.WriteFile(f, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		d.run("rm /d3/f3")
	})
	w.step(func() {})
	if got := w.step(func() { d.run("rm /d4/f4") }); !slices.Equal(got, []string{"unlink /d4/f4"}) {
		t.Errorf("events %q", got)
	}
	w.stop()
	gaps := 0
	for _, a := range w.alerts {
		if a.Alert == filewatch.AlertGap {
			gaps++
		}
	}
	if gaps != 1 || len(w.alerts) != 2 {
		t.Errorf("alerts %+v", w.alerts)
	}
	sequence(t, w)
}
