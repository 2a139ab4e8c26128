package verifier

import (
	"slices"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/remote"
)

// A volume that can never be read makes a machine unknown, whatever the rules ignore of
// it, until somebody accepts that; then the state says who did and why, and more of it, or
// another reason, does not pass for it.
func TestKnownGapIsAccepted(t *testing.T) {
	r := start(t, twoMachines)
	w := newWatch(t, r.enrol(t, "host1", remote.RoleHost), "vm1")
	var err error
	w.rules, err = filewatch.ParseRules([]byte("[[rule]]\npath = \"**\"\nvolume = \"v2\"\nlevel = \"ignore\"\n[[rule]]\npath = \"**\"\nlevel = \"verify\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	luks := filewatch.Gap{Volume: "v2", What: "partition 2 (LUKS)", Reason: "encrypted"}
	motd := file("/etc/motd", 1, "hello")
	w.gaps = []filewatch.Gap{luks}
	w.capture(0, motd)
	r.said(t, "vm1", "a baseline of vm1 was taken")
	is := func(what string, unmeasured, told bool) remote.Review {
		t.Helper()
		var item remote.Review
		eventually(t, what, func() bool {
			m := r.machine(t, "vm1")
			says := slices.ContainsFunc(m.Reasons, func(s string) bool {
				return strings.Contains(s, "not measured, as ") && strings.Contains(s, "partition 2 (LUKS), volume v2 (encrypted): backups, change 4711")
			})
			item = remote.Review{}
			for _, open := range m.Review {
				if open.Kind == reviewGap {
					item = open
				}
			}
			counts := slices.ContainsFunc(m.Reasons, func(s string) bool { return strings.Contains(s, "could not be compared") })
			return counts == unmeasured && says == told && (len(m.Files.Accepted) > 0) == told && (m.Files.Unmeasured > 0) == unmeasured
		})
		return item
	}
	item := is("what is not measured", true, false)
	if item.Summary != "not read: partition 2 (LUKS), volume v2" || item.Detail != "encrypted" {
		t.Fatalf("review %+v", item)
	}
	decide := func(id string, accept bool) {
		t.Helper()
		if _, err := r.client.Decide(t.Context(), id, remote.Decision{Accept: accept, Reason: "backups, change 4711"}); err != nil {
			t.Fatal(err)
		}
	}
	decide(item.ID, true)
	if left := is("an accepted gap", false, true); left.ID != "" {
		t.Errorf("still asked about: %+v", left)
	}
	if by := r.machine(t, "vm1").Files.Accepted[0].By; by == "" {
		t.Error("nobody accepted it")
	}

	w.capture(0, motd)
	r.said(t, "vm1", "a rescan of vm1")
	is("the same gap at a rescan", false, true)

	w.gaps = []filewatch.Gap{luks, luks}
	w.capture(0, motd)
	twice := is("a second one like it", true, false)
	decide(twice.ID, true)
	is("both accepted", false, true)

	w.gaps = []filewatch.Gap{luks, {Volume: "v2", What: luks.What, Reason: "corrupt"}}
	w.capture(0, motd)
	if other := is("another reason", true, true); other.Detail != "corrupt" || other.ID == item.ID {
		t.Errorf("review %+v", other)
	}

	w.gaps = []filewatch.Gap{luks}
	w.capture(0, motd)
	if left := is("the other one is gone", false, true); left.ID != "" {
		t.Errorf("still asked about: %+v", left)
	}

	decide(item.ID, false)
	if open := is("taken back", true, false); open.ID != item.ID || !open.Rejected {
		t.Errorf("review %+v", open)
	}

	w.gaps = nil
	w.capture(0, motd)
	// Baseline and disk differ in it: that is told as what the older one could not read.
	is("it can be read now", true, false)
	if err := r.client.StartBaseline(t.Context(), "vm1"); err != nil {
		t.Fatal(err)
	}
	w.capture(w.agent.command(remote.CommandBaseline).ID, motd)
	if left := is("a baseline without a gap", false, false); left.ID != "" {
		t.Errorf("still asked about: %+v", left)
	}
}

// However many gaps there are, people are asked about some, and the others count.
func TestGapsToDecideAreBounded(t *testing.T) {
	r := start(t, twoMachines)
	w := newWatch(t, r.enrol(t, "host1", remote.RoleHost), "vm1")
	w.gaps = []filewatch.Gap{{What: strings.Repeat("x", maxGapText+1), Reason: "damaged"}}
	for i := range 2 * maxGaps {
		w.gaps = append(w.gaps, filewatch.Gap{What: strings.Repeat("d", i+1), Reason: "damaged"})
	}
	w.capture(0, file("/etc/motd", 1, "hello"))
	r.said(t, "vm1", "a baseline of vm1 was taken")
	m := r.machine(t, "vm1")
	if m.Files.Unmeasured != 2*maxGaps+1 || len(m.Review) != maxGaps {
		t.Errorf("%d not measured, %d to decide", m.Files.Unmeasured, len(m.Review))
	}
}
