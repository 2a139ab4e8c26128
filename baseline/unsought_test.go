package baseline

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// spent has a search begin at its bound.
func spent(o *CaptureOptions) { o.moved.sums.Store(maxSums) }

// What a search at its bound did not look for is not measured, and neither are files that
// may have it; what it found, and what rotation does not do, is what it is.
func TestWhatIsNotLookedForIsNotMeasured(t *testing.T) {
	unpacked := func(o *CaptureOptions) { o.moved.room.take(leastUnpacked) }
	for name, c := range map[string]struct {
		bound  func(*CaptureOptions)
		change func(fs *files)
		want   []string
		pass   bool
	}{
		"copied and cut": {bound: spent, change: func(fs *files) {
			fs.put(24, "line 1\nlast\n", "/var/log/syslog.4")
			fs.put(14, "", "/var/log/syslog")
		}, want: []string{"not-measured /var/log/syslog [] []", "not-measured /var/log/syslog.4 [] []"}},
		"an altered copy": {bound: spent, change: func(fs *files) {
			fs.put(24, "LINE 1\nlast\n", "/var/log/syslog.4")
			fs.put(14, "", "/var/log/syslog")
		}, want: []string{"not-measured /var/log/syslog [] []", "not-measured /var/log/syslog.4 [] []"}},
		"another one in its place": {bound: spent, change: func(fs *files) {
			delete(fs.objects, 14)
			fs.put(24, "new\n", "/var/log/syslog")
			fs.put(25, "line 1\n", "/var/log/syslog.4")
		}, want: []string{"not-measured /var/log/syslog [] []", "not-measured /var/log/syslog.4 [] []"}},
		"gone, a copy elsewhere": {bound: spent, change: func(fs *files) {
			delete(fs.objects, 14)
			fs.put(25, "line 1\n", "/var/log/old/syslog.1")
		}, want: []string{"not-measured /var/log/old/syslog.1 [] []", "not-measured /var/log/syslog [] []"}},
		"given away": {bound: spent, change: func(fs *files) {
			fs.put(24, "line 1\n", "/var/log/syslog.4")
			fs.put(14, "", "/var/log/syslog").UID = 1000
		}, want: []string{"changed /var/log/syslog [uid growing] [content-changed-times-kept log-truncated]", "not-measured /var/log/syslog.4 [] []"}},
		"a setuid copy": {bound: spent, change: func(fs *files) {
			fs.put(14, "", "/var/log/syslog")
			fs.put(24, "line 1\n", "/var/log/syslog.4").Mode = 0o4755
		}, want: []string{"not-measured /var/log/syslog [] []", "added /var/log/syslog.4 [] [setuid-added executable-out-of-place]"}},
		"a file of no log": {bound: spent, change: func(fs *files) {
			fs.put(14, "", "/var/log/syslog")
			fs.put(24, "x", "/var/log/other.1")
			fs.put(25, "line 1\n", "/var/log/syslog.4")
		}, want: []string{"added /var/log/other.1 [] []", "not-measured /var/log/syslog [] []", "not-measured /var/log/syslog.4 [] []"}},
		"nothing to look into": {bound: spent, change: func(fs *files) { fs.put(14, "", "/var/log/syslog") }, want: []string{truncated}},
		"grown":                {bound: spent, change: func(fs *files) { fs.put(14, "line 1\nline 2\n", "/var/log/syslog") }, pass: true},
		"moved aside": {bound: spent, change: func(fs *files) {
			fs.put(14, "line 1\nlast\n", "/var/log/syslog.4")
			fs.put(24, "new\n", "/var/log/syslog")
		}, pass: true},
		"packed": {bound: unpacked, change: func(fs *files) {
			fs.put(14, "", "/var/log/syslog")
			fs.put(24, packed(t, ".gz", "line 1\nlast\n"), "/var/log/syslog.4.gz")
		}, want: []string{"not-measured /var/log/syslog [] []", "not-measured /var/log/syslog.4.gz [] []"}},
		"packed, and found beside it": {bound: unpacked, change: func(fs *files) {
			fs.put(14, "", "/var/log/syslog")
			fs.put(24, "line 1\nlast\n", "/var/log/syslog.4")
			fs.put(25, packed(t, ".gz", "older\n"), "/var/log/auth.log.9.gz")
		}, want: []string{"added /var/log/auth.log.9.gz [] []"}},
		"more dictionary than is given": {bound: func(*CaptureOptions) {}, change: func(fs *files) {
			fs.put(14, "", "/var/log/syslog")
			fs.put(24, "\x28\xb5\x2f\xfd\x00\xf8line 1\nlast\n", "/var/log/syslog.4.zst") // RFC 8878, 3.1.1.1.2: a window of 2 TiB
		}, want: []string{"not-measured /var/log/syslog [] []", "not-measured /var/log/syslog.4.zst [] []"}},
	} {
		before, now := logs(t), logs(t)
		c.change(now)
		asked, k := rules(t, logRules), key(t)
		b := open(t, write(t, snapshot(t, before, &CaptureOptions{Rules: asked}), k), k)
		here := func(o *CaptureOptions) (*Report, error) {
			if err := o.Follow(b); err != nil {
				return nil, err
			}
			c.bound(o)
			return Compare(b, snapshot(t, now, o))
		}
		apart := func(o *CaptureOptions) (*Report, error) {
			o.FollowLogs(sentLogs(t, b, asked))
			c.bound(o)
			return DiffUnder(asked, b, open(t, write(t, snapshot(t, now, o), k), k))
		}
		for where, check := range map[string]func(*CaptureOptions) (*Report, error){"here": here, "apart": apart} {
			report, err := check(&CaptureOptions{Rules: asked})
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(c.want, brief(report)); d != "" {
				t.Errorf("%s, %s (want, got):\n%s", name, where, d)
			}
			outcome := "pass"
			for _, w := range c.want {
				if !strings.HasPrefix(w, string(Unmeasured)) {
					outcome = "fail"
				} else if outcome == "pass" {
					outcome = "incomplete"
				}
			}
			if got := report.Outcome(); got != outcome || c.pass != (got == "pass") {
				t.Errorf("%s, %s: %s, want %s", name, where, got, outcome)
			}
			for _, change := range report.Changes {
				if change.Kind == Unmeasured && !strings.Contains(change.Explanation, "ended at its bound") {
					t.Errorf("%s, %s: %s: %s", name, where, change.Path, change.Explanation)
				}
			}
		}
	}
}

// Rotation gives no file another name beside the one it has.
func TestAnotherNameIsNotByRotation(t *testing.T) {
	asked, k := rules(t, strings.Replace(logRules, `"growing"`, `"growing", "names"`, 1)), key(t)
	b := open(t, write(t, snapshot(t, logs(t), &CaptureOptions{Rules: asked}), k), k)
	now := logs(t)
	now.put(24, "line 1\n", "/var/log/syslog.4")
	now.put(14, "", "/var/log/syslog", "/var/log/tail")
	o := &CaptureOptions{Rules: asked}
	if err := o.Follow(b); err != nil {
		t.Fatal(err)
	}
	spent(o)
	report, err := Compare(b, snapshot(t, now, o))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"changed /var/log/syslog [names growing] [content-changed-times-kept log-truncated]", "not-measured /var/log/syslog.4 [] []"}
	if d := cmp.Diff(want, brief(report)); d != "" {
		t.Errorf("(want, got):\n%s", d)
	}
}

// Where more files have what a log had than are noted, those that are not count as not
// looked into.
func TestHoldersThatAreNotNoted(t *testing.T) {
	m := newMovedLogs()
	p := &prefix{size: 1}
	m.follow("v", "/var/log/x", p)
	own := m.logs[logPlace{"v", "/var/log/", "x"}]
	for n := range maxHolders + 1 {
		if p.unsought {
			t.Fatalf("not noted after %d", n)
		}
		own.holds(filewatch.ID{Inode: uint64(n)}, []*prefix{p})
	}
	if !p.unsought || len(p.in) != maxHolders {
		t.Errorf("%d are noted, unsought %v", len(p.in), p.unsought)
	}
}

// Of old contents that are equal one digest finds all: that is bounded as digests are, and
// what is left out is not looked for.
func TestManyEqualContents(t *testing.T) {
	const count = 50
	m := newMovedLogs()
	for n := range count {
		m.follow("v", fmt.Sprintf("/var/log/x.%d", n), &prefix{size: 1, want: blake3.Sum256([]byte("x"))})
	}
	log := m.logs[logPlace{"v", "/var/log/", "x"}]
	m.sums.Store(maxSums - 2*count)
	for i, want := range []int{count, count, 0} {
		look := log.search("")
		look.goesOn(blake3.New(), 0, []byte("x"))
		if len(look.found) != want {
			t.Errorf("%d files found in file %d, want %d", len(look.found), i, want)
		}
		log.holds(filewatch.ID{Inode: uint64(i)}, look.found)
	}
	m.settle()
	log.any(func(w wantedLog) bool {
		if !w.unsought || len(w.in) != 2 {
			t.Errorf("unsought %v, in %d", w.unsought, len(w.in))
		}
		return false
	})
}

// An object is noted once for each old content, whoever noted it.
func TestHoldersAreNotedOnce(t *testing.T) {
	m := newMovedLogs()
	was := []filewatch.ID{{Inode: 1}, {Inode: 2}}
	p := &prefix{size: 1, in: was, before: len(was)}
	m.follow("v", "/var/log/x", p)
	log := m.logs[logPlace{"v", "/var/log/", "x"}]
	for _, inode := range []uint64{1, 3, 3, 2, 4} {
		log.holds(filewatch.ID{Inode: inode}, []*prefix{p, p})
	}
	if d := cmp.Diff(append(slices.Clone(was), filewatch.ID{Inode: 3}, filewatch.ID{Inode: 4}), p.in); d != "" {
		t.Error(d)
	}
}

// An incremental scan does not know what the one before did not look for, either: it looks
// only into what changed since.
func TestWhatWasNotLookedForStaysSo(t *testing.T) {
	asked, k, dir := rules(t, logRules), key(t), t.TempDir()
	b := open(t, write(t, snapshot(t, logs(t), &CaptureOptions{Rules: asked}), k), k)
	now := logs(t)
	now.put(14, "", "/var/log/syslog")
	now.put(24, "line 1\n", "/var/log/syslog.4")
	o := &CaptureOptions{Rules: asked}
	if err := o.Follow(b); err != nil {
		t.Fatal(err)
	}
	spent(o)
	if _, err := snapshot(t, now, o).Remember(dir, b, "", &Keep{Taken: epoch}); err != nil {
		t.Fatal(err)
	}
	last, err := OpenLast(dir, &b.Header, asked)
	if err != nil {
		t.Fatal(err)
	}
	u, err := CaptureSince(t.Context(), following{now, nil}, last, nil, &CaptureOptions{Rules: asked})
	if err != nil {
		t.Fatal(err)
	}
	defer u.Close()
	again, err := u.Remember(&Keep{Taken: epoch})
	if err != nil {
		t.Fatal(err)
	}
	for what, state := range map[string]*Last{"stored": last, "followed": again} {
		report, err := state.Report(&b.Header, asked)
		if err != nil {
			t.Fatal(err)
		}
		want := []string{"not-measured /var/log/syslog [] []", "not-measured /var/log/syslog.4 [] []"}
		if d := cmp.Diff(want, brief(report)); d != "" {
			t.Errorf("%s (want, got):\n%s", what, d)
		}
	}
}

// Of a log's many rotations what each held is found again, and those of one length cost
// one digest.
func TestManyOwnRotations(t *testing.T) {
	const count = 20_000
	m := newMovedLogs()
	for n := range count {
		p := &prefix{size: 1, want: Digest{byte(n), byte(n >> 8), 1}, wasIn: []filewatch.ID{{Inode: uint64(n)}}}
		m.follow("v", fmt.Sprintf("/var/log/x.%d", n), p)
	}
	log := m.logs[logPlace{"v", "/var/log/", "x"}]
	for n := range count {
		if !log.held(filewatch.ID{Inode: uint64(n)}) {
			t.Fatalf("what %d held is not found", n)
		}
		look := log.search("")
		if look.goesOn(blake3.New(), 0, []byte("x")); len(look.found) != 0 {
			t.Fatalf("%d has what it has not", n)
		}
	}
	if n := m.sums.Load(); n != count {
		t.Errorf("%d digests for %d files of one length", n, count)
	}
	log.any(func(w wantedLog) bool {
		if len(w.in) != 1 {
			t.Errorf("in %d", len(w.in))
		}
		return false
	})
}
