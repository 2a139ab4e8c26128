package pkgdb

import (
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/baseline/pkgdb/pkgdbtest"
	"github.com/plumbline-sec/plumbline/filewatch"
)

const toolDiverted = "/usr/bin/tool\n/opt/real/tool\nwrapper\n/usr/bin/other\n/usr/bin/other.real\n:\n"

// list is a guest of which no more is read than its list of diversions.
type list struct{ text string }

func (l list) Machine() filewatch.Machine { return filewatch.Machine{} }

func (l list) Scan(_ context.Context, want baseline.WantFunc, visit baseline.VisitFunc) ([]filewatch.Gap, error) {
	o, names := &filewatch.Object{Type: filewatch.TypeFile, Size: int64(len(l.text))}, []string{dpkgDiversions}
	if !want(o, names) {
		return nil, errors.New("the list is not wanted")
	}
	return nil, visit(o, names, strings.NewReader(l.text), nil)
}

// before is a baseline that has the list.
func before(text string) iter.Seq2[*baseline.Record, error] {
	return func(yield func(*baseline.Record, error) bool) {
		yield(&baseline.Record{Names: []string{dpkgDiversions}, BLAKE3: blake3.Sum256([]byte(text))}, nil)
	}
}

// A file that is put elsewhere is explained by its package on the operator's word or
// the baseline's, and on no word where anything is not as the package has it.
func TestDiversionsExplain(t *testing.T) {
	deb := pkgdbtest.Deb(t, "gzip")
	file := filepath.Join(t.TempDir(), "diversions")
	if err := os.WriteFile(file, []byte(toolDiverted), 0o600); err != nil {
		t.Fatal(err)
	}
	for word, divert := range map[Word]func(p *Packages){
		OperatorsWord: func(p *Packages) {
			d, err := OpenDiversions(file)
			if err != nil {
				t.Fatal(err)
			}
			p.Divert(d, OperatorsWord)
		},
		BaselinesWord: func(p *Packages) { watchDiversions(t, p, toolDiverted, toolDiverted) },
	} {
		p, err := Open(nil, deb)
		if err != nil {
			t.Fatal(err)
		}
		real := changed("/opt/real/tool", 0o755, "#!/bin/sh\n")
		if p.Explain([]*baseline.Change{real}, time.Now()) != 0 || !real.Counts() {
			t.Errorf("without diversions: %s", real.Explained)
		}
		divert(p)
		if p.Explain([]*baseline.Change{real}, time.Now()) != 1 || real.Explained != "package tool 1.2-3 (operator's word, no signature verified), diverted on "+string(word) {
			t.Errorf("on %s: %q, %q", word, real.Explained, real.Explanation)
		}
		for _, c := range []*baseline.Change{
			changed("/opt/real/tool", 0o755, "evil\n"), changed("/opt/real/tool", 0o4755, "#!/bin/sh\n"),
			changed("/opt/real/other", 0o755, "#!/bin/sh\n"), changed("/usr/bin/other.real", 0o755, "#!/bin/sh\n"),
		} {
			if p.Explain([]*baseline.Change{c}, time.Now()) != 0 || !c.Counts() {
				t.Errorf("on %s: explained %s: %s", word, c.Path, c.Explained)
			}
		}
	}
}

// watchDiversions has packages know the list of a guest whose baseline has another
// one, or the same.
func watchDiversions(t *testing.T, p *Packages, now, then string) {
	t.Helper()
	var owners Owners
	src := owners.Watch(list{now})
	_, err := src.Scan(t.Context(), func(*filewatch.Object, []string) bool { return false },
		func(_ *filewatch.Object, _ []string, content io.Reader, _ error) error { return nil })
	if err == nil {
		err = owners.Divert(p, before(then))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Who owns the guest puts a program that does nothing, signed and all, in place of
// another, and says in the guest's list that it was diverted there.
func TestGuestsDiversionsExplainNothing(t *testing.T) {
	p, err := Open(nil, pkgdbtest.Deb(t, "gzip"))
	if err != nil {
		t.Fatal(err)
	}
	watchDiversions(t, p, "/usr/bin/tool\n/usr/sbin/auditd\n:\n", toolDiverted)
	auditd := changed("/usr/sbin/auditd", 0o755, "#!/bin/sh\n")
	if n := p.Explain([]*baseline.Change{auditd}, time.Now()); n != 0 || !auditd.Counts() {
		t.Errorf("%d explained: %s", n, auditd.Explained)
	}
	if want := "hint, and it explains nothing: it is the file that is diverted to here from /usr/bin/tool, on the guest's own word, of package tool 1.2-3"; !strings.HasSuffix(auditd.Explanation, want) {
		t.Errorf("%q, want %q", auditd.Explanation, want)
	}
	// The operator's word counts beside it, whichever is known first.
	d, err := ParseDiversions([]byte("/usr/bin/tool\n/usr/sbin/auditd\n:\n"))
	if err != nil {
		t.Fatal(err)
	}
	p.Divert(d, OperatorsWord)
	p.Divert(d, GuestsWord)
	if n := p.Explain([]*baseline.Change{auditd}, time.Now()); n != 1 {
		t.Errorf("%d explained: %s", n, auditd.Explanation)
	}
}

// The files of the package that a diversion is for stay where they are.
func TestDiversionsLeaveTheirPackageAlone(t *testing.T) {
	p, err := Open(nil, pkgdbtest.Deb(t, "gzip"))
	if err != nil {
		t.Fatal(err)
	}
	d, err := ParseDiversions([]byte("/usr/bin/tool\n/opt/real/tool\ntool\n"))
	if err != nil {
		t.Fatal(err)
	}
	p.Divert(d, OperatorsWord)
	if c := changed("/opt/real/tool", 0o755, "#!/bin/sh\n"); p.Explain([]*baseline.Change{c}, time.Now()) != 0 {
		t.Errorf("explained: %s", c.Explained)
	}
}

func FuzzParseDiversions(f *testing.F) {
	f.Add([]byte(toolDiverted))
	f.Add([]byte("/a\n/b\n"))
	f.Add([]byte("a\n\n:\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := ParseDiversions(text)
		if (d == nil) == (err == nil) {
			t.Fatalf("%v and %v", d, err)
		}
		if err == nil && 3*len(d.all) != bytes.Count(text, []byte("\n")) {
			t.Fatalf("%d of %q", len(d.all), text)
		}
	})
}
