package baseline

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/baseline/sign"
	"github.com/plumbline-sec/plumbline/filewatch"
)

// machineLogs is a directory of logs that is rotated as logrotate does, and otherwise.
type machineLogs struct {
	t      *testing.T
	random *rand.Rand
	*files
	touched []uint64
	next    uint64
	lines   int
	// olddir is where rotations are, extension what is kept at their end.
	olddir, extension string
}

// name is that of a log's rotation.
func (m *machineLogs) name(log string, n int) string {
	stem, ext := log, ""
	if m.extension != "" && strings.HasSuffix(log, m.extension) {
		stem, ext = strings.TrimSuffix(log, m.extension), m.extension
	}
	return fmt.Sprintf("%s%s.%d%s", m.olddir, strings.TrimPrefix(stem, "/var/log/"), n, ext)
}

func (m *machineLogs) at(path string) *file {
	for _, f := range m.objects {
		if f.names[0] == path {
			return f
		}
	}
	return nil
}

func (m *machineLogs) touch(f *file) {
	f.Size = int64(len(f.content))
	f.Ctime = f.Ctime.Add(time.Second)
	m.touched = append(m.touched, f.Inode)
}

func (m *machineLogs) create(content, path string) {
	m.next++
	m.touch(m.put(m.next, content, path))
}

func (m *machineLogs) remove(f *file) {
	if f != nil {
		delete(m.objects, f.Inode)
		m.touched = append(m.touched, f.Inode)
	}
}

func (m *machineLogs) rename(from, to string) {
	if f := m.at(from); f != nil {
		f.names = []string{to}
		m.touch(f)
	}
}

func (m *machineLogs) write(path string) {
	m.lines++
	if f := m.at(path); f != nil {
		f.content += fmt.Sprintf("line %d\n", m.lines)
		m.touch(f)
	}
}

// compress packs a file; later removes it in a step of its own, between which a scan
// may come.
func (m *machineLogs) compress(path string) (later func()) {
	f := m.at(path)
	if f == nil {
		return func() {}
	}
	m.create(packed(m.t, ".gz", f.content), path+".gz")
	return func() { m.remove(f) }
}

// rotate is one run of logrotate, in steps between which scans come.
func (m *machineLogs) rotate(log string, copytruncate, compress, delay bool) []func() {
	const keep = 4
	var steps []func()
	step := func(f func()) { steps = append(steps, f) }
	later := func() {}
	if compress && delay {
		step(func() { later = m.compress(m.name(log, 1)) })
		step(func() { later() })
	}
	step(func() {
		m.remove(m.at(m.name(log, keep) + ".gz"))
		m.remove(m.at(m.name(log, keep)))
		for n := keep - 1; n > 0; n-- {
			m.rename(m.name(log, n)+".gz", m.name(log, n+1)+".gz")
			m.rename(m.name(log, n), m.name(log, n+1))
		}
	})
	if copytruncate {
		step(func() { m.create(m.at(log).content, m.name(log, 1)) })
		step(func() { f := m.at(log); f.content = ""; m.touch(f) })
	} else {
		step(func() { m.rename(log, m.name(log, 1)); m.create("", log) })
	}
	if compress && !delay {
		step(func() { later = m.compress(m.name(log, 1)) })
		step(func() { later() })
	}
	return steps
}

// Scans that build on each other say of rotated logs, and of cut ones, what one of
// everything says, whatever step of a rotation they come after.
func TestUpdatesFollowRotation(t *testing.T) {
	asked := rules(t, logRules)
	full, followed, quiet := 0, 0, 0
	for seed := range uint64(40) {
		m := &machineLogs{t: t, random: rand.New(rand.NewPCG(seed, 5)), files: newFiles(), next: 10, olddir: "/var/log/"}
		if seed%5 > 2 {
			m.olddir = "/var/log/old/"
		}
		if seed%5%2 == 0 {
			m.extension = ".log"
		}
		for _, log := range []string{"/var/log/a", "/var/log/b.log"} {
			m.create("first\n", log)
			m.create("second of "+log+"\n", m.name(log, 1))
			m.create(packed(t, ".gz", "third\n"), m.name(log, 2)+".gz")
		}
		k := key(t)
		b := open(t, write(t, snapshot(t, m, &CaptureOptions{Rules: asked}), k), k)
		everything := func() (*Snapshot, *Report) {
			o := &CaptureOptions{Rules: asked}
			if err := o.Follow(b); err != nil {
				t.Fatal(err)
			}
			s := snapshot(t, m, o)
			r, err := Compare(b, s)
			if err != nil {
				t.Fatal(err)
			}
			return s, r
		}
		dir := t.TempDir()
		remember := func() {
			s, _ := everything()
			if _, err := s.Remember(dir, b, "", &Keep{Taken: epoch}); err != nil {
				t.Fatal(err)
			}
		}
		remember()
		// The same for a baseline that is elsewhere.
		apart := &apart{t, b, asked, k, t.TempDir()}
		apart.remember(m)
		var steps []func()
		for round := range 25 {
			m.touched = nil
			log := []string{"/var/log/a", "/var/log/b.log"}[m.random.IntN(2)]
			switch n := m.random.IntN(12); {
			case len(steps) > 0:
				steps[0]()
				steps = steps[1:]
				if n < 6 {
					m.write(log)
				}
			case n < 7:
				m.write(log)
			case n == 7 && seed%2 == 1:
				f := m.at(log)
				f.content = ""
				m.touch(f)
			case n == 8 && seed%4 == 1:
				if f := m.at(m.name(log, 1)); f != nil {
					f.content = "F" + f.content[1:]
					m.touch(f)
				}
			case n == 8 && seed%4 == 3:
				m.create("mine\n", m.name(log, 9))
			default:
				steps = m.rotate(log, m.random.IntN(2) == 0, m.random.IntN(3) > 0, m.random.IntN(2) == 0)
			}
			_, want := everything()
			if want.Mask() == 0 {
				quiet++
			}
			if got := apart.follow(m); got != nil {
				if d := cmp.Diff(brief(want), brief(got)); d != "" {
					t.Fatalf("seed %d, round %d, apart (-everything +since):\n%s", seed, round, d)
				}
			}
			last, err := OpenLast(dir, &b.Header, asked)
			if err != nil {
				t.Fatal(err)
			}
			u, err := CaptureSince(t.Context(), following{m.files, m.touched}, last, nil, &CaptureOptions{Rules: asked})
			if err != nil { // what the caller makes of it
				full++
				remember()
				continue
			}
			followed++
			direct, err := u.Report(&b.Header)
			if err != nil {
				t.Fatal(err)
			}
			now, err := u.Remember(&Keep{Taken: epoch})
			if err != nil {
				t.Fatal(err)
			}
			stored, err := now.Report(&b.Header, asked)
			if err != nil {
				t.Fatal(err)
			}
			for what, got := range map[string]*Report{"direct": direct, "stored": stored} {
				if d := cmp.Diff(brief(want), brief(got)); d != "" {
					t.Fatalf("seed %d, round %d, %s (-everything +since):\n%s", seed, round, what, d)
				}
			}
			u.Close()
		}
	}
	t.Logf("%d scans followed, %d full ones, %d of them without a finding", followed, full, quiet)
	if full == 0 || full*5 > followed || quiet < 100 {
		t.Errorf("%d scans followed, %d full ones, %d of them without a finding", followed, full, quiet)
	}
}

// apart captures for a baseline that it does not have, each time with what the last
// capture left.
type apart struct {
	t     *testing.T
	b     *Baseline
	rules *filewatch.Rules
	key   *sign.Key
	dir   string
}

func (a *apart) remember(m *machineLogs) {
	o := &CaptureOptions{Rules: a.rules}
	o.FollowLogs(sentLogs(a.t, a.b, a.rules))
	if _, err := snapshot(a.t, m, o).Remember(a.dir, nil, "none", &Keep{Taken: epoch}); err != nil {
		a.t.Fatal(err)
	}
}

// follow is what comparing comes to, nil where everything had to be read.
func (a *apart) follow(m *machineLogs) *Report {
	a.t.Helper()
	last, err := OpenLast(a.dir, &Header{Body: Body{BLAKE3: "none"}}, a.rules)
	if err != nil {
		a.t.Fatal(err)
	}
	u, err := CaptureSince(a.t.Context(), following{m.files, m.touched}, last, nil, &CaptureOptions{Rules: a.rules})
	if err != nil {
		a.remember(m)
		return nil
	}
	defer u.Close()
	now, err := u.Remember(&Keep{Taken: epoch})
	if err != nil {
		a.t.Fatal(err)
	}
	var out bytes.Buffer
	if _, err := now.Write(&out, a.rules, &Edition{Tool: "test", Created: epoch, Lineage: "l", Version: 1}, a.key); err != nil {
		a.t.Fatal(err)
	}
	report, err := DiffUnder(a.rules, a.b, open(a.t, out.Bytes(), a.key))
	if err != nil {
		a.t.Fatal(err)
	}
	return report
}
