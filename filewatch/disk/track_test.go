package disk

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/disk/disktest"
	"github.com/plumbline-sec/plumbline/internal/qmp"
)

// tracked is one scan; keep says whether it comes to its end.
func tracked(t *testing.T, m *disktest.Machine, last Track, keep bool, during func(*Set)) *Set {
	t.Helper()
	set, err := OpenVMSince(t.Context(), m.QMP, last)
	if err != nil {
		t.Fatal(err)
	}
	if during != nil {
		during(set)
	}
	if keep {
		set.Keep()
	}
	if err := set.Close(); err != nil {
		t.Fatal(err)
	}
	return set
}

func images(t *testing.T) (raw, qcow2 string) {
	t.Helper()
	dir := t.TempDir()
	raw, qcow2 = filepath.Join(dir, "raw"), filepath.Join(dir, "qcow2")
	if err := os.WriteFile(raw, make([]byte, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", qcow2, "8M")
	return raw, qcow2
}

var one = bytes.Repeat([]byte{1}, 4096)

// QEMU's bitmaps tell what was written since the last scan, whatever becomes of
// the scans between.
func TestBitmapsFollowScans(t *testing.T) {
	raw, qcow2 := images(t)
	m := disktest.Start(t, "raw:"+raw, "qcow2:"+qcow2)
	ours := Track{ID: "test"}
	first := tracked(t, m, ours, true, func(s *Set) {
		if s.Lost == "" || s.Changed != nil {
			t.Errorf("the first scan knows what changed: %v", s.Changed)
		}
		m.Write(t, 0, 8192, one) // after the snapshot, before the end of the scan
	})
	expect := func(what string, s *Set, disk int, runs ...filewatch.Extent) {
		t.Helper()
		if s.Lost != "" {
			t.Fatalf("%s: lost: %s", what, s.Lost)
		}
		if d := cmp.Diff(runs, s.Changed[disk]); d != "" {
			t.Errorf("%s: disk %d changed (want, got):\n%s", what, disk, d)
		}
	}
	at := func(off, length int64) filewatch.Extent { return filewatch.Extent{Physical: off, Length: length} }

	m.Write(t, 1, 1<<20, one)
	s := tracked(t, m, first.Track, false, nil)
	expect("second scan", s, 0, at(8192, 4096))
	expect("second scan", s, 1, at(1<<20, 4096))

	m.Write(t, 1, 2<<20, one)
	s = tracked(t, m, first.Track, false, func(*Set) { m.Write(t, 0, 65536, one) })
	expect("after a scan that failed", s, 1, at(1<<20, 4096), at(2<<20, 4096))
	s = tracked(t, m, first.Track, true, nil)
	expect("after a write during a scan that failed", s, 0, at(8192, 4096), at(65536, 4096))

	s = tracked(t, m, s.Track, true, nil)
	expect("with nothing written", s, 0)
	expect("with nothing written", s, 1)
	if n := countBitmaps(t, m); n != 2 {
		t.Errorf("%d bitmaps are left, want one for each disk", n)
	}
}

// A scan that is killed takes no write with it.
func TestBitmapsSurviveKilledScan(t *testing.T) {
	raw, _ := images(t)
	m := disktest.Start(t, "raw:"+raw)
	first := tracked(t, m, Track{ID: "test"}, true, nil)
	m.Write(t, 0, 4096, one)
	killed, err := OpenVMSince(t.Context(), m.QMP, first.Track)
	if err != nil {
		t.Fatal(err)
	}
	killed.closers[0]() // the lock dies with a process; all else stays
	m.Write(t, 0, 16384, one)
	s := tracked(t, m, first.Track, true, nil)
	want := []filewatch.Extent{{Physical: 4096, Length: 4096}, {Physical: 16384, Length: 4096}}
	if d := cmp.Diff(want, s.Changed[0]); d != "" || s.Lost != "" {
		t.Errorf("lost %q (want, got):\n%s", s.Lost, d)
	}

	// Killed after the new state was stored, before the old bitmap was removed.
	m.Write(t, 0, 4096, one)
	stored, err := OpenVMSince(t.Context(), m.QMP, s.Track)
	if err != nil {
		t.Fatal(err)
	}
	stored.closers[0]()
	m.Write(t, 0, 32768, one)
	s = tracked(t, m, stored.Track, true, nil)
	if d := cmp.Diff([]filewatch.Extent{{Physical: 32768, Length: 4096}}, s.Changed[0]); d != "" || s.Lost != "" {
		t.Errorf("lost %q (want, got):\n%s", s.Lost, d)
	}
	if n := countBitmaps(t, m); n != 1 {
		t.Errorf("%d bitmaps are left, want one", n)
	}
}

// Whatever becomes of a bitmap, it never reads as nothing changed.
func TestLostBitmapsShow(t *testing.T) {
	for name, c := range map[string]struct {
		reason string
		lose   func(*testing.T, *disktest.Machine, *Track) *disktest.Machine
	}{
		"removed": {"is gone", func(t *testing.T, m *disktest.Machine, last *Track) *disktest.Machine {
			m.Execute(t, "block-dirty-bitmap-remove", object{"node": last.Disks[0].Node, "name": last.Bitmap}, nil)
			return m
		}},
		"disabled": {"not recording", func(t *testing.T, m *disktest.Machine, last *Track) *disktest.Machine {
			m.Execute(t, "block-dirty-bitmap-disable", object{"node": last.Disks[0].Node, "name": last.Bitmap}, nil)
			return m
		}},
		"resized": {"not those of the last scan", func(t *testing.T, m *disktest.Machine, last *Track) *disktest.Machine {
			m.Execute(t, "block_resize", object{"device": "d0", "size": 16 << 20}, nil)
			return m
		}},
		"restarted": {"is gone", func(t *testing.T, m *disktest.Machine, last *Track) *disktest.Machine {
			m.Quit(t)
			again := disktest.Start(t, "qcow2:"+last.Disks[0].File)
			// Names of unnamed nodes may come out otherwise.
			set := tracked(t, again, Track{ID: "other"}, false, nil)
			last.Disks = set.Track.Disks
			return again
		}},
		"crashed": {"is gone", func(t *testing.T, m *disktest.Machine, last *Track) *disktest.Machine {
			m.Kill()
			again := disktest.Start(t, "qcow2:"+last.Disks[0].File)
			set := tracked(t, again, Track{ID: "other"}, false, nil)
			last.Disks = set.Track.Disks
			return again
		}},
		"inconsistent": {"inconsistent", func(t *testing.T, m *disktest.Machine, last *Track) *disktest.Machine {
			// Someone made it persistent; QEMU keeps it in the image, marks it as in
			// use when it starts again, and then crashes.
			at := object{"node": last.Disks[0].Node, "name": last.Bitmap}
			m.Execute(t, "block-dirty-bitmap-remove", at, nil)
			m.Execute(t, "block-dirty-bitmap-add", object{"node": last.Disks[0].Node, "name": last.Bitmap, "persistent": true}, nil)
			m.Quit(t)
			image := "qcow2:" + last.Disks[0].File
			crashing := disktest.Start(t, image)
			crashing.Write(t, 0, 8192, one)
			crashing.Kill()
			again := disktest.Start(t, image)
			last.Disks = blocksOf(t, again)
			return again
		}},
		"missed": {"is gone", func(t *testing.T, m *disktest.Machine, last *Track) *disktest.Machine {
			tracked(t, m, *last, true, nil) // its state was not stored
			return m
		}},
	} {
		t.Run(name, func(t *testing.T) {
			_, qcow2 := images(t)
			m := disktest.Start(t, "qcow2:"+qcow2)
			last := tracked(t, m, Track{ID: "test"}, true, nil).Track
			m.Write(t, 0, 4096, one)
			m = c.lose(t, m, &last)
			s := tracked(t, m, last, true, nil)
			if !strings.Contains(s.Lost, c.reason) || s.Changed != nil {
				t.Errorf("lost %q, changed %v; want a reason with %q", s.Lost, s.Changed, c.reason)
			}
			if s = tracked(t, m, s.Track, true, nil); s.Lost != "" {
				t.Errorf("the scan after that is lost too: %s", s.Lost)
			}
		})
	}
}

// A bitmap that someone else uses says nothing, and is left to them. (While it is
// in use by a job or an export, QEMU 7.2 mostly refuses the snapshot too, and the
// scan fails; so this is asked of the judgement alone.)
func TestBitmapInUseIsLost(t *testing.T) {
	track := &tracking{last: Track{ID: "test", Bitmap: "plumbline-test-1"}}
	found := []bitmap{{Name: "plumbline-test-1", Recording: true, Busy: true}}
	lost, err := track.mend(t.Context(), nil, "d0", found)
	if err != nil || !strings.Contains(lost, "in use") {
		t.Errorf("lost %q, %v", lost, err)
	}
	track.lost = lost
	if err := track.discard(t.Context(), nil, map[string][]bitmap{"d0": found}); err != nil {
		t.Error(err)
	}
}

func blocksOf(t *testing.T, m *disktest.Machine) []Block {
	t.Helper()
	monitor, err := qmp.Dial(t.Context(), m.QMP)
	if err != nil {
		t.Fatal(err)
	}
	defer monitor.Close()
	blocks, err := Blocks(t.Context(), monitor)
	if err != nil {
		t.Fatal(err)
	}
	return blocks
}

func countBitmaps(t *testing.T, m *disktest.Machine) int {
	t.Helper()
	var nodes []struct {
		Bitmaps []bitmap `json:"dirty-bitmaps"`
	}
	m.Execute(t, "query-named-block-nodes", object{"flat": true}, &nodes)
	n := 0
	for _, node := range nodes {
		n += len(node.Bitmaps)
	}
	return n
}

// Where nothing was written no snapshot is made, and nothing is missed by that.
func TestScansWithoutChangesMakeNoSnapshot(t *testing.T) {
	raw, qcow2 := images(t)
	m := disktest.Start(t, "raw:"+raw, "qcow2:"+qcow2)
	open := func(last Track, keep bool) *Set {
		t.Helper()
		s, err := OpenVMChanged(t.Context(), m.QMP, last)
		if err != nil {
			t.Fatal(err)
		}
		if keep {
			s.Keep()
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open(Track{ID: "test"}, true)
	if s.Same || s.Lost == "" {
		t.Errorf("without an earlier scan: same %v, lost %q", s.Same, s.Lost)
	}
	for _, keep := range []bool{true, false} {
		now := open(s.Track, keep)
		if !now.Same || len(now.Disks) > 0 || cmp.Diff(now.Track, s.Track) != "" {
			t.Errorf("nothing written, keep %v: %+v, want the same as %+v", keep, now, s.Track)
		}
	}
	for disk := range 2 { // either may be the one that was written
		m.Write(t, disk, 8192, one)
		now := open(s.Track, true)
		if want := []filewatch.Extent{{Physical: 8192, Length: 4096}}; now.Same || cmp.Diff(want, now.Changed[disk]) != "" {
			t.Errorf("disk %d written: same %v, changed %v, lost %q", disk, now.Same, now.Changed, now.Lost)
		}
		s = now
	}

	// A scan that is killed leaves the last bitmap empty and no longer counting:
	// what is written then is in another one.
	killed, err := OpenVMSince(t.Context(), m.QMP, s.Track)
	if err != nil {
		t.Fatal(err)
	}
	killed.closers[0]()
	m.Write(t, 1, 16384, one)
	if now := open(s.Track, true); now.Same || len(now.Changed[1]) != 1 {
		t.Errorf("written after a scan was killed: same %v, changed %v, lost %q", now.Same, now.Changed, now.Lost)
	}
	if n := countBitmaps(t, m); n != 2 {
		t.Errorf("%d bitmaps are left, want one for each disk", n)
	}
	if s = open(killed.Track, false); s.Same || s.Lost == "" {
		t.Errorf("of a bitmap that is gone: same %v, lost %q", s.Same, s.Lost)
	}
}

// A QEMU that cannot export the bitmap of another node has each scan be full, with
// the reason, in the place of an error.
func TestFullScansWhereBitmapsAreNotShown(t *testing.T) {
	for _, v := range []qmp.Version{{Major: 5, Minor: 2}, {Major: 6, Minor: 9}, {Major: 7, Minor: 0}} {
		if exportsBitmaps(v) == "" {
			t.Errorf("%d.%d is asked for a bitmap", v.Major, v.Minor)
		}
	}
	for _, v := range []qmp.Version{{Major: 7, Minor: 1}, {Major: 7, Minor: 2}, {Major: 8}, {Major: 11, Minor: 1}} {
		if why := exportsBitmaps(v); why != "" {
			t.Errorf("%d.%d: %s", v.Major, v.Minor, why)
		}
	}
}
