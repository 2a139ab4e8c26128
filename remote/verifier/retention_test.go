package verifier

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
)

func (r *running) stored(t *testing.T, collection string) (keys []string) {
	t.Helper()
	docs, err := r.store.List(t.Context(), store.Query{Collection: collection, Bare: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range docs {
		keys = append(keys, d.Key)
	}
	return keys
}

// still are those of before that are among now: what a verifier that runs adds in
// between does not matter.
func still(before, now []string) []string {
	return slices.DeleteFunc(slices.Clone(before), func(key string) bool { return !slices.Contains(now, key) })
}

// TestForgetsWhatIsOldAndNotNeeded has one of each that is needed however old it is,
// and one that is not.
func TestForgetsWhatIsOldAndNotNeeded(t *testing.T) {
	r, w := watched(t, file("/etc/a", 2, "a"), file("/etc/b", 3, "b"))
	w.settle(w.event(filewatch.OpWrite, file("/etc/a", 2, "x")), file("/etc/a", 2, "a"))
	r.judgedAs(t, "/etc/a", remote.VerdictUnchanged)
	w.settle(w.event(filewatch.OpWrite, file("/etc/b", 3, "x")), file("/etc/b", 3, "changed"))
	r.judgedAs(t, "/etc/b", remote.VerdictChanged)
	var scans []string
	for i := range 2 {
		scans = append(scans, r.judged(t, i+1, func(n remote.Nonce) { w.agent.send(remote.KindScan, w.agent.scan("vm1", n, item("pass"))) }).ID)
	}
	bodies := r.scanBodies(t, scans)
	changed := r.machine(t, "vm1").Events[0].ID

	later := &Verifier{store: r.store, config: &Config{}, now: func() time.Time { return r.now().Add(3 * minKeep) }}
	forget := func(keep time.Duration) {
		t.Helper()
		later.config.Keep = Duration(keep)
		if err := later.forgetOld(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	scanned, events, moments := r.stored(t, inScans), r.stored(t, inEvents), r.stored(t, inMoments)
	wantLeft := func(keep time.Duration, collection string, before, want []string) {
		t.Helper()
		if got := still(before, r.stored(t, collection)); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("keep %s: of %ss %q there are %q left, want %q", keep, collection, before, got, want)
		}
	}
	for _, keep := range []time.Duration{0, 4 * minKeep} {
		forget(keep)
		wantLeft(keep, inScans, scanned, scanned)
		wantLeft(keep, inEvents, events, events)
		wantLeft(keep, inMoments, moments, moments)
	}
	forget(minKeep)
	wantLeft(minKeep, inScans, scans, scans[1:])
	wantLeft(minKeep, inEvents, events, []string{changed})
	wantLeft(minKeep, inMoments, moments, nil)
	if missing, err := r.store.Missing(t.Context(), bodies); err != nil || !slices.Equal(missing, bodies[:1]) {
		t.Errorf("bodies %v are gone, want %v (%v)", missing, bodies[:1], err)
	}
	if m := r.machine(t, "vm1"); len(m.Review) != 1 || m.Scan.Outcome != remote.OutcomePass || m.Files.Baseline == "" {
		t.Errorf("the machine: %+v", m)
	}
}

func (r *running) scanBodies(t *testing.T, scans []string) (bodies []remote.Digest) {
	t.Helper()
	for _, id := range scans {
		s, err := load[scanEntry](t.Context(), r.store, inScans, id)
		if err != nil {
			t.Fatal(err)
		}
		bodies = append(bodies, s.V.Body)
	}
	return bodies
}
