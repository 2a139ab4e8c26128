package baseline

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/filewatch"
)

func TestAcceptTakesChosenChangesOnly(t *testing.T) {
	k := key(t)
	before, now := tree(), tree()
	now.put(11, "MOTD", "/etc/motd")
	delete(now.objects, 12)
	now.put(20, "x", "/new")
	now.objects[13].names = []string{"/usr/bin/env2"}
	b := open(t, write(t, snapshot(t, before, nil), k), k)
	s := snapshot(t, now, nil)
	report, err := Compare(b, s)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	d := &Decision{Time: epoch, Author: "ann", Reason: "update", Selection: "test", Tool: "test"}
	chosen := []*Change{report.Changes[0], report.Changes[1], report.Changes[3]}
	h, err := Accept(b, chosen, d, &out, k)
	if err != nil {
		t.Fatal(err)
	}
	if h.Version != 2 || len(h.Accepted) != 1 || h.Accepted[0].Author != "ann" || len(h.Accepted[0].Changes) != 3 {
		t.Errorf("header %+v", h)
	}
	next := open(t, out.Bytes(), k)
	if err := next.Verify(); err != nil {
		t.Error(err)
	}
	after, err := Compare(next, s)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{brief(report)[2]}, brief(after)); diff != "" {
		t.Error(diff)
	}
	if _, err := Accept(b, nil, d, &out, k); !errors.Is(err, ErrNothingAccepted) {
		t.Errorf("nothing chosen: %v", err)
	}
	if _, err := Accept(b, chosen, &Decision{Author: "ann"}, &out, k); err == nil {
		t.Error("accepted without a reason")
	}
}

func TestLedgerNeverForgets(t *testing.T) {
	l := Ledger{t.TempDir()}
	for _, v := range []uint64{3, 1, 2} {
		if err := l.Raise("ab", v); err != nil {
			t.Fatal(err)
		}
	}
	if v, err := l.Version("ab"); v != 3 || err != nil {
		t.Fatalf("%d, %v", v, err)
	}
	if v, err := l.Version("cd"); v != 0 || err != nil {
		t.Fatalf("%d, %v", v, err)
	}
	if _, err := l.Version("../x"); err == nil {
		t.Fatal("a lineage left the directory")
	}
	if err := os.WriteFile(l.Dir+"/ab.json", []byte("?"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Version("ab"); err == nil {
		t.Fatal("a damaged ledger reads as no version")
	}
}

// What was not read is not accepted unseen.
func TestRefusesToAcceptWhatWasNotRead(t *testing.T) {
	for name, damage := range map[string]func(now *files){
		"unreadable content, new mode": func(now *files) {
			now.objects[13].Mode = 0o4755
			now.objects[13].damage = errors.New("bad block")
		},
		"unreadable new file": func(now *files) {
			now.put(90, "x", "/etc/new")
			now.objects[90].damage = errors.New("bad block")
		},
		"gone, in a volume with gaps": func(now *files) {
			delete(now.objects, 11)
			now.gaps = []filewatch.Gap{{Volume: now.volume, What: "/etc", Reason: "damaged directory"}}
		},
	} {
		k, now := key(t), tree()
		b := open(t, write(t, snapshot(t, tree(), nil), k), k)
		damage(now)
		report, err := Compare(b, snapshot(t, now, nil))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Accept(b, report.Changes, &Decision{Author: "a", Reason: "r"}, io.Discard, k); !errors.Is(err, ErrPartial) {
			t.Errorf("%s: %v of %v", name, err, brief(report))
		}
	}
}
