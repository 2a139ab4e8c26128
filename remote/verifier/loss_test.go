package verifier

import (
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/remote"
)

// loses has the watch tell that it lost an event, for a reason that is waited for.
func (r *running) loses(t *testing.T, w *watch, why string) {
	t.Helper()
	w.seq++
	w.agent.send(remote.KindStatus, remote.Status{State: remote.WatchNotice, Target: "vm1", Detail: "gap: " + why, First: w.seq, Lost: 1})
	r.said(t, "vm1", why)
}

// isLost waits until events are lost that no rescan has made up for, or none are.
func (r *running) isLost(t *testing.T, want bool) {
	t.Helper()
	eventually(t, "the loss", func() bool {
		m, err := r.loadMachine(t.Context(), "vm1")
		if err != nil {
			t.Fatal(err)
		}
		return m.V.Lost.IsZero() != want
	})
}

func unread(f *diskFile) *diskFile {
	out := *f
	out.BLAKE3, out.Unread = [32]byte{}, "bad block"
	return &out
}

// Events that are a reason to rescan in two ways ask for one rescan, which is for both.
func TestTwoReasonsForOneRescan(t *testing.T) {
	env := file("/usr/bin/env", 2, "elf")
	r, w := watched(t, env)
	w.seq += 2 // never sent
	w.wrote(filewatch.OpWrite, unread(env))
	r.judgedAs(t, env.Path(), remote.VerdictUnknown)
	r.isLost(t, true)
	r.doubts(t, true)
	w.capture(w.agent.command(remote.CommandRescan).ID, env)
	r.isLost(t, false)
	r.doubts(t, false)
	if open := r.rescans(t); len(open) != 1 {
		t.Errorf("rescans that are asked for: %+v", open)
	}
}

// A rescan that was asked for before events were lost does not make up for them.
func TestEarlierRescanMakesUpForNoLoss(t *testing.T) {
	env := file("/usr/bin/env", 2, "elf")
	r, w := watched(t, env)
	w.wrote(filewatch.OpWrite, unread(env))
	earlier := w.agent.command(remote.CommandRescan)
	r.loses(t, w, "the bitmap is gone")
	w.capture(earlier.ID, env)
	r.said(t, "vm1", "a rescan of vm1")
	r.doubts(t, false)
	r.isLost(t, true)
	w.capture(w.agent.command(remote.CommandRescan).ID, env)
	r.isLost(t, false)
}

// Nor does one that was under way already; another one is asked for.
func TestLossDuringARescanIsMadeUpFor(t *testing.T) {
	env := file("/usr/bin/env", 2, "elf")
	r := startPausing(t, twoMachines, time.Hour)
	w := newWatch(t, r.enrol(t, "host1", remote.RoleHost), "vm1")
	w.capture(0, env)
	r.said(t, "vm1", "a baseline of vm1 was taken")
	r.loses(t, w, "the first bitmap is gone")
	first := w.agent.command(remote.CommandRescan)
	r.loses(t, w, "the second bitmap is gone")
	w.capture(first.ID, env)
	r.said(t, "vm1", "a rescan of vm1")
	r.isLost(t, true)
	if open := r.rescans(t); len(open) != 1 {
		t.Errorf("during the pause: %+v", open)
	}
	r.tickAfter(t, 2*time.Hour)
	second := w.agent.command(remote.CommandRescan)
	if second.ID == first.ID {
		t.Fatal("nothing is asked for")
	}
	w.capture(second.ID, env)
	r.isLost(t, false)
}

// A rescan that the agent says it is done with, and of which nothing came, is asked for
// again.
func TestRescanThatNeverComesIsAskedAgain(t *testing.T) {
	env := file("/usr/bin/env", 2, "elf")
	r := startPausing(t, twoMachines, time.Minute)
	w := newWatch(t, r.enrol(t, "host1", remote.RoleHost), "vm1")
	w.capture(0, env)
	r.said(t, "vm1", "a baseline of vm1 was taken")
	r.loses(t, w, "the bitmap is gone")
	first := w.agent.command(remote.CommandRescan)
	if _, err := w.agent.Commands(t.Context(), first.ID, 0); err != nil {
		t.Fatal(err)
	}
	r.tickAfter(t, rotationPatience+time.Minute)
	second := w.agent.command(remote.CommandRescan)
	w.capture(second.ID, env)
	r.isLost(t, false)
}

// What is found while a new baseline is under way may not be in it: the item is closed
// with it, and a rescan tells.
func TestChangeWhileABaselineIsUnderWay(t *testing.T) {
	env, evil := file("/usr/bin/env", 2, "elf"), file("/usr/bin/env", 2, "evl")
	r, w := watched(t, env)
	if err := r.client.StartBaseline(t.Context(), "vm1"); err != nil {
		t.Fatal(err)
	}
	asked := w.agent.command(remote.CommandBaseline)
	w.wrote(filewatch.OpWrite, evil)
	r.violations(t, 1)
	w.capture(asked.ID, env) // it looked before
	r.violations(t, 0)
	r.doubts(t, true)
	r.tickAfter(t, time.Hour)
	w.capture(w.agent.command(remote.CommandRescan).ID, evil)
	r.violations(t, 1)
	r.doubts(t, false)
}
