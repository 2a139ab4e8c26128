//go:build lab

package vm

import (
	"context"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/internal/lab"
)

var inode = regexp.MustCompile(`inode \d+`)

// lines says events in words, one each.
func lines(events []*filewatch.Event) []string {
	var all []string
	var ongoing *filewatch.Event
	for _, e := range events {
		// A file that is written on and on is told once a second: how often that
		// is, is the machine's affair.
		if e.Status == filewatch.Ongoing && ongoing != nil && ongoing.Path == e.Path {
			continue
		}
		if ongoing = nil; e.Status == filewatch.Ongoing {
			ongoing = e
		}
		s := e.Op.String() + " " + e.Path
		if e.NewPath != "" {
			s += " -> " + e.NewPath
		}
		if e.Status != filewatch.Done {
			s += " " + string(e.Status)
		}
		if e.Detail != "" {
			s += ": " + inode.ReplaceAllString(e.Detail, "inode INODE")
		}
		all = append(all, s)
	}
	return all
}

const ongoing = " ongoing"

func TestWatchedMachine(t *testing.T) {
	m := lab.StartT(t, lab.Options{Plugin: plugin(t), Files: fileops(t)})
	t.Run("operations", func(t *testing.T) { testOperations(t, m) })
	t.Run("actor", func(t *testing.T) { testActor(t, m) })
	t.Run("burst", func(t *testing.T) { testBurst(t, m) })
	t.Run("rules", func(t *testing.T) { testRules(t, m) })
	t.Run("protect", func(t *testing.T) { testProtect(t, m) })
	t.Run("two clients", func(t *testing.T) { testTwoClients(t, m) })
	t.Run("comes and goes", func(t *testing.T) { testComesAndGoes(t, m) })
	t.Run("settled", func(t *testing.T) { testSettled(t, m) })
	t.Run("judged", func(t *testing.T) { testJudged(t, m) })
	t.Run("reset", func(t *testing.T) { testReset(t, m) })
}

// The operations, each in its own directory /t/N as its test's name says. What
// fails in the guest, and what only reads, gives no event.
var operations = []struct {
	name, script string
	want         []string
}{
	{"create, write, close", `echo hi >/t/a`,
		[]string{"create /t/a", "write /t/a" + ongoing, "write /t/a"}},
	{"append", `echo more >>/t/a`, []string{"write /t/a" + ongoing, "write /t/a"}},
	{"open for writing without a write", `: >>/t/a`, nil},
	{"truncating open", `: >/t/a`, []string{"truncate /t/a"}},
	{"hard link", `ln /t/a /t/b`, []string{"link /t/a -> /t/b"}},
	{"write through the other name", `echo x >>/t/b`, []string{"write /t/b" + ongoing, "write /t/b"}},
	{"chmod", `chmod 4711 /t/a`, []string{"chmod /t/a"}},
	{"chown", `chown 1:2 /t/a`, []string{"chown /t/a"}},
	{"times", `touch -d 2001-02-03 /t/a`, []string{"utimes /t/a"}},
	{"truncate", `truncate -s 5 /t/a`, []string{"truncate /t/a"}},
	{"fallocate", `fallocate -p -o 0 -l 4096 /t/a`,
		[]string{"write /t/a" + ongoing, "fallocate /t/a", "write /t/a"}},
	{"user attribute", `setfattr -n user.x -v y /t/a`, []string{"setxattr /t/a: user.x"}},
	{"removed attribute", `setfattr -x user.x /t/a`, []string{"setxattr /t/a: user.x"}},
	{"security attribute", `setfattr -n security.test -v y /t/a`, []string{"setacl /t/a: security.test"}},
	{"inode flags", `chattr +i /t/a; chattr -i /t/a`, []string{"setflags /t/a", "setflags /t/a"}},
	{"unlink", `rm /t/b`, []string{"unlink /t/b"}},
	{"rename", `mv /t/a /t/c`, []string{"rename /t/a -> /t/c"}},
	{"atomic replace", `echo new >/t/c.new; mv /t/c.new /t/c`,
		[]string{"create /t/c.new", "write /t/c.new" + ongoing, "write /t/c.new", "rename /t/c.new -> /t/c: replaced inode INODE"}},
	{"exchange", `ln -s x /t/d; /opt/plumbline/fileops exchange /t/c /t/d || exit`,
		[]string{"symlink /t/d", "exchange /t/c -> /t/d"}},
	{"directories", `mkdir /t/e /t/e/f; rmdir /t/e/f /t/e`,
		[]string{"mkdir /t/e", "mkdir /t/e/f", "rmdir /t/e/f", "rmdir /t/e"}},
	{"nodes", `mknod /t/n c 1 3; mkfifo /t/p; rm /t/n /t/p`,
		[]string{"mknod /t/n", "mknod /t/p", "unlink /t/n", "unlink /t/p"}},
	{"through a symbolic link", `mkdir /t/real; ln -s real /t/alias; mkdir /t/alias/x`,
		[]string{"mkdir /t/real", "symlink /t/alias", "mkdir /t/real/x"}},
	{"unlinked and open", `exec 5>/t/gone; rm /t/gone; echo x >&5; exec 5>&-`,
		[]string{"create /t/gone", "unlink /t/gone",
			"write /t/gone ongoing: the object has no name any more", "write /t/gone: the object has no name any more"}},
	{"shared mapping", `/opt/plumbline/fileops map /t/map || exit`,
		[]string{"create /t/map", "truncate /t/map", "write /t/map" + ongoing, "write /t/map"}},
	{"io_uring", `/opt/plumbline/fileops uring /t/d /t/map || exit`,
		[]string{"write /t/d ongoing", "unlink /t/map", "write /t/d"}},
	{"file without a name that gets one", `/opt/plumbline/fileops tmpfile /t /t/late || exit`, nil},
	{"bind mount", `mkdir /t/bound /mnt/b; mount --bind /t/bound /mnt/b; echo x >/mnt/b/y; umount /mnt/b; rmdir /mnt/b`,
		[]string{"mkdir /t/bound", "create /t/bound/y", "write /t/bound/y" + ongoing, "write /t/bound/y"}},
	{"changed root", `mkdir -p /t/root/bin; cp /usr/bin/busybox /t/root/bin/sh >/dev/null
chroot /t/root /bin/sh -c 'echo x >/inside'; rm -r /t/root`, nil},
	{"own mount namespace", `unshare -m sh -c 'mount -t tmpfs none /root; echo x >/root/hidden; echo y >/t/seen'`,
		[]string{"create /t/seen", "write /t/seen" + ongoing, "write /t/seen"}},
	{"operations that fail", `mkdir /t/real; rmdir /t; rm /t/none; ln /t/none /t/m; mv /t/none /t/m; ln -s -T x /t/real
setpriv --reuid 1000 --clear-groups sh -c 'chmod 777 /t/c; echo x >/t/c; rm /t/c; mkdir /t/q; truncate -s 0 /t/c'
true`, nil},
	{"reading", `cat /t/seen; ls -lR /t; find /t -newer /t/c; md5sum /t/seen; readlink /t/alias; getfattr -d /t/seen; df /t`, nil},
}

func testOperations(t *testing.T, m *lab.Machine) {
	w := watch(t, m, nil)
	w.run("mkdir /t; chmod 755 /t")
	for _, test := range operations {
		t.Run(test.name, func(t *testing.T) {
			w.t = t
			_, got := w.run(test.script + "\n:")
			switch test.name {
			case "changed root", "file without a name that gets one":
				testNamed(t, test.name, lines(got))
				return
			}
			if diff := cmp.Diff(test.want, lines(got)); diff != "" {
				t.Errorf("events (-want +got):\n%s", diff)
			}
		})
	}
	w.t = t
	if w.run("rm -r /t"); len(w.alerts) != 0 {
		t.Errorf("alerts: %v", w.alerts)
	}
	for i, e := range w.events {
		if e.Sequence != uint64(i+1) {
			t.Fatalf("event %d has number %d", i+1, e.Sequence)
		}
	}
}

// testNamed looks for one line where the rest depends on the tool.
func testNamed(t *testing.T, name string, got []string) {
	t.Helper()
	want := map[string]string{
		"changed root":                      "create /t/root/inside",
		"file without a name that gets one": "-> /t/late",
	}[name]
	for _, line := range got {
		if strings.Contains(line, want) {
			return
		}
	}
	t.Errorf("no %q in %q", want, got)
}

// testActor holds who did it, and to which inode, against what the guest says.
func testActor(t *testing.T, m *lab.Machine) {
	w := watch(t, m, nil)
	out, events := w.run(`mkdir /t; chmod 777 /t
setpriv --reuid 1000 --regid 1000 --clear-groups bash -c 'echo $$; umask 027; printf 12345 >/t/mine; stat -c "%i %s %u %a" /t/mine; exec -a x mkdir /t/dir'
lsattr -v /t/mine | cut -d" " -f1; lsattr -v /t/mine; stat -c %i /t/dir`)
	fields := strings.Fields(out)
	var last *filewatch.Event
	for _, e := range events {
		if e.Path == "/t/mine" {
			last = e
		}
	}
	if last == nil || len(fields) < 5 {
		t.Fatalf("no event on /t/mine; the guest said %q", out)
	}
	got := []string{strconv.Itoa(last.Actor.PID), strconv.FormatUint(last.Object.Inode, 10),
		strconv.FormatInt(last.Object.Size, 10), strconv.Itoa(int(last.Object.UID)), strconv.FormatInt(int64(last.Object.Mode), 8)}
	if diff := cmp.Diff(fields[:5], got); diff != "" {
		t.Errorf("pid, inode, size, owner, mode (-guest +event):\n%s", diff)
	}
	if last.Actor.UID != 1000 || last.Actor.Name != "bash" || last.Actor.TID != last.Actor.PID {
		t.Errorf("actor %+v", last.Actor)
	}
	if n := len(last.Actor.Ancestry); n < 2 || last.Actor.Ancestry[n-1].PID != 1 {
		t.Errorf("ancestry %v does not end at the first process", last.Actor.Ancestry)
	}
	if fmt.Sprint(last.Object.Generation) != fields[5] {
		t.Errorf("generation %d, lsattr says %s", last.Object.Generation, fields[5])
	}
	if dir := events[len(events)-1]; dir.Op != filewatch.OpMkdir || dir.Actor.Name != "mkdir" || dir.Actor.PID != last.Actor.PID {
		t.Errorf("mkdir after exec: %s by %+v", dir.Op, dir.Actor)
	}
	w.run("rm -r /t")
}

// testBurst makes more operations than anyone should lose, and holds the count
// against the numbers: each is there or counted as lost. What is lost may be the
// last of them, so that no mark is waited for.
func testBurst(t *testing.T, m *lab.Machine) {
	w := watch(t, m, nil)
	w.ShellT(t, `mkdir /t; /opt/plumbline/fileops burst /t 5000`)
	next, seen, lost := 0, uint64(0), uint64(0)
	w.wait(func() bool {
		for ; next < len(w.events); next++ {
			if e := w.events[next]; e.Follows == 0 && strings.HasPrefix(e.Path, "/t/") {
				seen++
			}
		}
		lost = 0
		for _, a := range w.alerts {
			lost += a.Lost
		}
		return seen+lost >= 10000
	})
	t.Logf("%d events, %d lost", seen, lost)
	w.run("rmdir /t")
}

func testRules(t *testing.T, m *lab.Machine) {
	rules, err := filewatch.ParseRules([]byte(`
[[rule]]
path = "/t/quiet/**"
level = "ignore"
[[rule]]
path = "/t/**"
level = "record"
[[rule]]
path = "/root/**"
level = "verify"
`))
	if err != nil {
		t.Fatal(err)
	}
	w := watch(t, m, rules)
	_, events := w.run(`mkdir -p /t/quiet/x; echo x >/t/quiet/y; mkdir /opt/other; mv /t/quiet/y /t/z; rm -r /t /opt/other`)
	for _, e := range events {
		if e.Level != filewatch.Record || strings.HasPrefix(e.Path, "/t/quiet/") && !strings.HasPrefix(e.NewPath, "/t/z") {
			t.Errorf("%s at level %s", lines([]*filewatch.Event{e}), e.Level)
		}
	}
	if len(events) == 0 {
		t.Error("no events")
	}
	for i, e := range w.events {
		if e.Sequence != uint64(i+1) {
			t.Fatalf("event %d has number %d: what is ignored must take none", i+1, e.Sequence)
		}
	}
}

// testProtect refuses operations on one path and lets its neighbour's through.
func testProtect(t *testing.T, m *lab.Machine) {
	rules, err := filewatch.ParseRules([]byte(`
[[rule]]
path = ["/t/kept", "/t/kept/**"]
level = "protect"
[[rule]]
path = "/**"
level = "verify"
`))
	if err != nil {
		t.Fatal(err)
	}
	w := watch(t, m, rules, func(w *Watcher) { w.Enforce = true })
	w.ShellT(t, `mkdir /t; echo before >/t/free`)
	out, events := w.run(`cd /t; for c in "mkdir kept" "cp free kept" "ln free kept" "mv free kept" "ln -s free kept"; do $c 2>/dev/null && echo "$c"; done
ls; echo after >>free && echo wrote`)
	if diff := cmp.Diff("free\nwrote\n", out); diff != "" {
		t.Errorf("the guest's view (-want +got):\n%s", diff)
	}
	refused := 0
	for _, line := range lines(events) {
		if strings.Contains(line, " denied") {
			refused++
		}
	}
	if refused != 5 {
		t.Errorf("%d refusals in %q, want 5", refused, lines(events))
	}
	w.stop()
	w.ShellT(t, `mkdir /t/kept; rm -r /t`) // hooks are gone: nothing is refused
}

// testTwoClients: each sees all, and one leaving takes nothing from the other.
func testTwoClients(t *testing.T, m *lab.Machine) {
	a, b := watch(t, m, nil), watch(t, m, nil)
	a.run("mkdir /t")
	b.wait(func() bool { return len(b.events) >= 3 })
	a.stop()
	if _, events := b.run("rmdir /t"); len(events) != 0 && events[0].Path != "/t" {
		t.Errorf("events %q", lines(events))
	}
}

// testComesAndGoes puts hooks in place and takes them away while both CPUs are
// inside hooked functions: QEMU and the guest must not notice.
func testComesAndGoes(t *testing.T, m *lab.Machine) {
	m.ShellT(t, "mkdir -p /t/1 /t/2")
	busy := make(chan error, 1)
	go func() {
		_, err := m.Shell(t.Context(), `set -e
for i in 1 2; do (until [ -e /t/stop ]; do /opt/plumbline/fileops burst /t/$i 100; done) & pids="$pids $!"; done
for pid in $pids; do wait $pid; done`)
		busy <- err
	}()
	for range 12 {
		watch(t, m, nil).stop()
		select {
		case err := <-busy:
			t.Fatalf("the guest's work ended: %v", err)
		default:
		}
	}
	m.ShellT(t, "touch /t/stop")
	if err := <-busy; err != nil {
		t.Errorf("the guest's work failed: %v", err)
	}
	w := watch(t, m, nil)
	if _, events := w.run("rmdir /t/1 /t/2"); len(events) != 2 {
		t.Errorf("afterwards: %q", lines(events))
	}
	w.run("rm -r /t")
}

// testSettled: a changed content is read once it is on disk, the page cache and
// the journal notwithstanding, and not before. Overwriting in place with the
// times put back is the case where the inode on disk looks settled long before
// the content is.
func testSettled(t *testing.T, m *lab.Machine) {
	w := watch(t, m, nil)
	// Half a minute by default; it must be more than the journal's five seconds.
	w.ShellT(t, "echo 1000 >/proc/sys/vm/dirty_expire_centisecs")
	w.run(`mkdir /t; printf 'first content' >/t/a`)
	first := w.settled("/t/a")
	if first.Object.Size != 13 || digest(first) != hex.EncodeToString(blake("first content")) {
		t.Errorf("settled with size %d and %s", first.Object.Size, digest(first))
	}
	w.run(`touch -r /t/a /t/stamp; printf 'evil' | dd of=/t/a conv=notrunc status=none; touch -r /t/stamp /t/a`)
	second := w.settled("/t/a")
	if second.Follows <= first.Sequence || digest(second) != hex.EncodeToString(blake("evilt content")) {
		t.Errorf("event %d follows %d with %s, the one before was %d", second.Sequence, second.Follows, digest(second), first.Sequence)
	}
	if !second.Object.Mtime.Equal(first.Object.Mtime) {
		t.Errorf("times were not put back: %v, %v", first.Object.Mtime, second.Object.Mtime)
	}
	w.run(`echo new >/t/new; mv /t/new /t/a; ln /t/a /t/b; rm /t/stamp; mkdir /t/d; ln -s x /t/l`)
	if e := w.settled("/t/a"); digest(e) != hex.EncodeToString(blake("new\n")) || e.Object.Nlink != 2 {
		t.Errorf("after the replacement: %s, %d links", digest(e), e.Object.Nlink)
	}
	if e := w.settled("/t/l"); e.Object.Link != "x" {
		t.Errorf("link to %q", e.Object.Link)
	}
	w.run("rm -r /t")
}

// testJudged: with a baseline, what is known at once is judged at once, content
// once it is on disk; rewriting the same content is no change.
func testJudged(t *testing.T, m *lab.Machine) {
	m.ShellT(t, `mkdir /t; for f in evil same gone mode; do echo "content of $f" >/t/$f; done; touch -d 2020-01-01 /t/*; sync`)
	index := captured(t, m, `
[[rule]]
path = "/t/**"
level = "verify"
check = ["content", "mode"]
[[rule]]
path = "/**"
level = "ignore"
`)
	w := watch(t, m, nil, func(w *Watcher) { w.Index = index })
	_, events := w.run(`touch -r /t/evil /root/stamp; echo "Content of evil" >/t/evil; touch -r /root/stamp /t/evil
echo "content of same" >/t/same; rm /t/gone; chmod 4644 /t/mode`)
	verdicts := map[string]filewatch.Judgement{}
	for _, e := range events {
		verdicts[e.Op.String()+" "+e.Path] = e.Verdict.Outcome
	}
	want := map[string]filewatch.Judgement{
		"truncate /t/evil": filewatch.NotMeasured, "write /t/evil": filewatch.NotMeasured, "utimes /t/evil": filewatch.NotMeasured,
		"truncate /t/same": filewatch.NotMeasured, "write /t/same": filewatch.NotMeasured,
		"unlink /t/gone": filewatch.Fail, "chmod /t/mode": filewatch.Fail,
	}
	if diff := cmp.Diff(want, verdicts); diff != "" {
		t.Errorf("verdicts at once (-want +got):\n%s", diff)
	}
	if e := w.settled("/t/evil"); e.Verdict.Outcome != filewatch.Fail || !slices.Contains(e.Verdict.Attributes, "blake3") {
		t.Errorf("content changed, times put back: %+v", e.Verdict)
	}
	if e := w.settled("/t/same"); e.Verdict.Outcome != filewatch.Pass {
		t.Errorf("same content again: %+v", e.Verdict)
	}
	w.run("rm -r /t /root/stamp")
}

// captured is a baseline of the machine's disk.
func captured(t *testing.T, m *lab.Machine, text string) *baseline.Index {
	t.Helper()
	rules, err := filewatch.ParseRules([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	b := captureOf(t, m.Disk, rules)
	index, err := b.Index()
	if err != nil {
		t.Fatal(err)
	}
	return index
}

// settled waits for the event that completes the last one on path.
func (w *watched) settled(path string) *filewatch.Event {
	w.t.Helper()
	var last uint64
	w.mu.Lock()
	for _, e := range w.events {
		if e.Follows == 0 && (e.Path == path || e.NewPath == path) {
			last = e.Sequence
		}
	}
	w.mu.Unlock()
	begin := time.Now()
	var found *filewatch.Event
	w.wait(func() bool {
		for _, e := range w.events {
			if e.Follows == last {
				found = e
				return true
			}
		}
		return false
	})
	w.t.Logf("%s settled after %v: %s", path, time.Since(begin).Round(time.Millisecond), found.Verdict.Reason)
	return found
}

func digest(e *filewatch.Event) string {
	if len(e.Hashes) == 0 {
		return "nothing: " + e.Verdict.Reason
	}
	return hex.EncodeToString(e.Hashes[0].Value)
}

func blake(content string) []byte {
	d := blake3.Sum256([]byte(content))
	return d[:]
}

// testReset: a reset shows as a gap and an alert, and the next kernel, at
// another address, is bound without help.
func testReset(t *testing.T, m *lab.Machine) {
	w := watch(t, m, nil)
	w.run("mkdir /t")
	try := func(script string) error { // of a machine that is not there no answer comes
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		_, err := m.Shell(ctx, script)
		return err
	}
	if err := try("echo b >/proc/sysrq-trigger"); err == nil {
		t.Log("the guest answered after its reset")
	}
	w.wait(func() bool { return len(w.alerts) >= 2 })
	if w.alerts[0].Alert != filewatch.AlertRestart || w.alerts[1].Alert != filewatch.AlertWatch {
		t.Errorf("alerts %v", w.alerts)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Second) {
		err := try("mkdir -p /t/again; echo x >/t/again/x")
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the guest is not back: %v", err)
		}
	}
	w.wait(func() bool {
		for _, e := range w.events {
			if e.Path == "/t/again/x" {
				return true
			}
		}
		return false
	})
	// What came before the alert has the numbers up to the one that is missing.
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.events {
		if a := w.alerts[0]; e.Sequence >= a.First && e.Sequence < a.First+max(a.Lost, 1) {
			t.Errorf("no gap in the numbers over the reset: %s has %d, of %+v", lines([]*filewatch.Event{e}), e.Sequence, a)
		}
	}
}
