package tap

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/filewatch/disk/disktest"
	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
)

// forgetful has a source look at everything each time.
type forgetful struct {
	*turns
	source *Source
}

func (f forgetful) Lock() {
	f.turns.Lock()
	f.source.memory = nil
}

// alike watches one machine by what was written and by looks at everything, has its
// disk go through a series of states, and holds that both tell the same.
func alike(t *testing.T, m *disktest.Machine, states func(become func(image []byte))) (events int) {
	t.Helper()
	patient := func(s *Source) { s.settling = time.Hour } // what follows comes in its own time
	byBlocks := watch(t, m.QMP, patient)
	byAll := watch(t, m.QMP, patient, func(s *Source) { s.Monitor = forgetful{s.Monitor.(*turns), s} })
	var last []byte
	states(func(image []byte) {
		if last == nil {
			last = image // the machine has it
			return
		}
		var both [2]string
		together(func() {
			for _, w := range []*watched{byBlocks, byAll} {
				w.add(func() { w.events = nil })
			}
			m.Become(t, 0, last, image)
			last = image
		}, byBlocks, byAll)
		for i, w := range []*watched{byBlocks, byAll} {
			w.step(func() {})
			both[i] = w.told()
			events += len(w.events)
		}
		if d := cmp.Diff(both[1], both[0]); d != "" {
			t.Errorf("by all, by what was written:\n%s", d)
		}
	})
	if len(byBlocks.alerts) != 1 {
		t.Errorf("alerts %+v", byBlocks.alerts)
	}
	return events
}

// told are events but for their numbers and times.
func (w *watched) told() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []byte
	for _, e := range w.events {
		shown := *e
		shown.Sequence, shown.Time, shown.Since, shown.Follows = 0, time.Time{}, time.Time{}, 0
		line, err := json.MarshalIndent(&shown, "", " ")
		if err != nil {
			w.t.Fatal(err)
		}
		out = append(append(out, line...), '\n')
	}
	return string(out)
}

// What is told by what was written is what looks at everything tell: of ext4 that
// changes at random, and of XFS that a kernel wrote to, its log replayed or not.
func TestWhatWasWrittenTellsAsMuchAsEverything(t *testing.T) {
	t.Run("ext4", func(t *testing.T) {
		d := newGuestDisk(t, "raw")
		n := alike(t, d.m, func(become func([]byte)) {
			for range 8 {
				become(d.m.BecomeImage(t, 0, nil, d.Image))
				d.Change(t)
			}
		})
		if n < 20 {
			t.Errorf("%d events", n)
		}
	})
	t.Run("XFS", func(t *testing.T) {
		live := filepath.Join(t.TempDir(), "live")
		var pictures [][]byte
		volumetest.Pictures(t, "../volume/xfs/testdata/v4.series.zst", func(round int, image []byte) {
			if round < 5 {
				pictures = append(pictures, image)
			}
		})
		if err := os.WriteFile(live, pictures[0], 0o600); err != nil {
			t.Fatal(err)
		}
		n := alike(t, disktest.Start(t, "raw:"+live), func(become func([]byte)) {
			for _, image := range pictures {
				become(image)
			}
		})
		if n < 20 {
			t.Errorf("%d events", n)
		}
	})
}
