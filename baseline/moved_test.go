package baseline

import (
	"fmt"
	"slices"
	"testing"

	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Logs of one name in many directories, as containers have them, are each looked for in
// their own, so that what there is to look for grows with the logs and not with their
// square; a few are looked for elsewhere as well.
func TestManyLogsOfOneName(t *testing.T) {
	for count, want := range map[int]int{maxElsewhere: maxElsewhere, maxElsewhere + 1: 1} {
		m := newMovedLogs()
		for n := range count {
			m.follow("v", fmt.Sprintf("/var/log/%d/0.log", n), &prefix{size: 1, want: blake3.Sum256([]byte("x"))})
		}
		o := &CaptureOptions{moved: m}
		log, _ := o.logOf(&filewatch.Object{Volume: "v", Type: filewatch.TypeFile}, []string{"/var/log/7/0.log.1"})
		look := log.search("")
		look.goesOn(blake3.New(), 0, []byte("x"))
		if len(look.found) != want {
			t.Errorf("of %d logs %d were looked for, want %d", count, len(look.found), want)
		}
	}
}

// Many logs that were copied and truncated in their own directories, and began alike, are
// told from altered ones.
func TestManyLogsThatBeganAlike(t *testing.T) {
	const count = 70
	asked, k := rules(t, logRules), key(t)
	path := func(n int) string { return fmt.Sprintf("/var/log/pod%d/0.log", n) }
	before, after := newFiles(), newFiles()
	for n := range count {
		before.put(uint64(n+100), "started\n", path(n))
		after.put(uint64(n+100), "", path(n))
		after.put(uint64(n+1000), fmt.Sprintf("started\n%d\n", n), path(n)+".1")
	}
	b := open(t, write(t, snapshot(t, before, &CaptureOptions{Rules: asked}), k), k)
	o := &CaptureOptions{Rules: asked}
	if err := o.Follow(b); err != nil {
		t.Fatal(err)
	}
	report, err := Compare(b, snapshot(t, after, o))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range report.Changes {
		if c.Counts() {
			t.Errorf("%s %s: %s", c.Kind, c.Path, c.Explanation)
		}
	}
}

// However many files elsewhere begin with what a log had, its own rotation is noted.
func TestOwnRotationIsNotPushedOut(t *testing.T) {
	m := newMovedLogs()
	p := &prefix{size: 1}
	m.follow("v", "/var/log/x", p)
	for n := range 10 * maxHoldersElsewhere {
		m.elsewhere[logPlace{"v", "", "x"}].holds(filewatch.ID{Inode: uint64(n)}, []*prefix{p})
	}
	own := filewatch.ID{Inode: 1 << 20}
	m.logs[logPlace{"v", "/var/log/", "x"}].holds(own, []*prefix{p})
	if len(p.in) != maxHoldersElsewhere+1 || !slices.Contains(p.in, own) {
		t.Errorf("%d are noted, own: %v", len(p.in), slices.Contains(p.in, own))
	}
}
