package pkgdb

import (
	"bytes"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/zeebo/blake3"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/baseline/pkgdb/pkgdbtest"
	"github.com/plumbline-sec/plumbline/filewatch"
)

func changed(path string, mode uint16, content string) *baseline.Change {
	r := &baseline.Record{Object: filewatch.Object{Type: filewatch.TypeFile, Mode: mode, Size: int64(len(content))}, Names: []string{path}}
	r.BLAKE3 = blake3.Sum256([]byte(content))
	return &baseline.Change{Path: path, Kind: baseline.Added, Level: filewatch.Verify, New: r}
}

func TestExplainsWhatAPackageInstalls(t *testing.T) {
	for _, compression := range []string{"xz", "gzip", "none", "zstd"} {
		packages, err := Open(nil, pkgdbtest.Deb(t, compression))
		if err != nil {
			t.Fatalf("%s: %v", compression, err)
		}
		link := changed("/usr/bin/alias", 0o777, "")
		link.New.Type, link.New.Link, link.New.BLAKE3 = filewatch.TypeSymlink, "tool", baseline.Digest{}
		same := []*baseline.Change{changed("/usr/bin/tool", 0o755, "#!/bin/sh\n"), changed("/etc/tool.conf", 0o644, "a=1\n"), link}
		if n := packages.Explain(same, time.Now()); n != len(same) || same[0].Explained != "package tool 1.2-3 (operator's word, no signature verified)" || same[0].Counts() {
			t.Errorf("%s: %d explained: %+v", compression, n, same[0])
		}
		// Attacks that look like an update.
		owner := changed("/usr/bin/tool", 0o755, "#!/bin/sh\n")
		owner.New.UID = 1000
		capability := changed("/usr/bin/tool", 0o755, "#!/bin/sh\n")
		capability.New.Xattrs = []filewatch.Xattr{{Name: "security.capability", Value: []byte{1}}}
		// The same under rules that do not compare xattrs.
		quiet := changed("/usr/bin/tool", 0o755, "#!/bin/sh\n")
		quiet.Kind, quiet.Old = baseline.Changed, &baseline.Record{Names: []string{"/usr/bin/tool"}}
		quiet.New.Xattrs = capability.New.Xattrs
		// An override that the baseline has stays; one that came, or came from another file,
		// or would make a program setuid or setgid, does not.
		override := func(was, now uint16, path string) *baseline.Change {
			c := changed("/usr/bin/tool", now, "#!/bin/sh\n")
			c.Kind, c.New.GID, c.New.Size = baseline.Changed, 99, 10
			c.Old = &baseline.Record{Object: c.New.Object, Names: []string{path}}
			c.Old.Mode = was
			return c
		}
		if c := override(0o750, 0o750, "/usr/bin/tool"); packages.Explain([]*baseline.Change{c}, time.Now()) != 1 || c.Counts() {
			t.Errorf("%s: an override that stayed is not explained: %+v", compression, c)
		}
		for _, c := range []*baseline.Change{
			override(0o755, 0o750, "/usr/bin/tool"), override(0o750, 0o750, "/usr/bin/other"),
			override(0o4750, 0o4750, "/usr/bin/tool"), override(0o2755, 0o2755, "/usr/bin/tool"), quiet, changed("/usr/bin/tool", 0o4755, "#!/bin/sh\n"),
			changed("/usr/bin/tool", 0o755, "#!/bin/Sh\n"),
			changed("/usr/bin/other", 0o755, "#!/bin/sh\n"),
			owner, capability,
		} {
			if packages.Explain([]*baseline.Change{c}, time.Now()) != 0 || !c.Counts() {
				t.Errorf("%s: explained %+v", c.Path, c.New)
			}
		}
	}
}

func TestRefusesWhatIsNoPackage(t *testing.T) {
	data, err := os.ReadFile(pkgdbtest.Deb(t, "gzip"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ReadDeb(bytes.NewReader(data)); err != nil {
		t.Fatalf("benign twin: %v", err)
	}
	for _, n := range []int{0, 7, 30, 100, len(data) / 2} {
		if p, err := ReadDeb(bytes.NewReader(data[:n])); err == nil {
			t.Errorf("cut to %d bytes: %+v", n, p)
		}
	}
	if _, err := ReadDeb(bytes.NewReader([]byte("!<arch>\n"))); !errors.Is(err, ErrNotPackage) {
		t.Errorf("empty archive: %v", err)
	}
}

func FuzzReadDeb(f *testing.F) {
	f.Add([]byte("!<arch>\ndebian-binary   0           0     0     100644  4         `\n2.0\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ReadDeb(bytes.NewReader(data))
		if (p == nil) == (err == nil) {
			t.Fatalf("%v and %v", p, err)
		}
	})
}
