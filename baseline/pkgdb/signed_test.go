package pkgdb

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/baseline/pkgdb/pkgdbtest"
)

// ring is the keyring with a signer's key.
func ring(t *testing.T, g *pkgdbtest.GPG) *Keyring {
	t.Helper()
	ring, err := OpenKeyring(g.Public)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

// A repository's signature reaches the file of a package, and nothing on the way
// can be exchanged.
func TestRepositorySignature(t *testing.T) {
	for _, algorithm := range []string{"ed25519", "rsa3072"} {
		g := pkgdbtest.NewGPG(t, algorithm)
		packages, err := Open(ring(t, g), pkgdbtest.Repository(t, g))
		if err != nil {
			t.Fatal(err)
		}
		c := changed("/usr/bin/tool", 0o755, "#!/bin/sh\n")
		packages.Explain([]*baseline.Change{c}, time.Now())
		if want := "package tool 1.2-3 (signed by " + g.Fingerprint + ", Test stable)"; c.Explained != want {
			t.Errorf("%s: got %q, want %q", algorithm, c.Explained, want)
		}
		if algorithm == "ed25519" {
			repositoryAttacks(t, g)
		}
	}
}

func repositoryAttacks(t *testing.T, g *pkgdbtest.GPG) {
	release, index := "dists/stable/InRelease", "dists/stable/main/binary-amd64/Packages"
	other := pkgdbtest.NewGPG(t, "ed25519")
	for name, attack := range map[string]func(dir string) (*Packages, error){
		"another key": func(dir string) (*Packages, error) { return Open(ring(t, other), dir) },
		"index changed": func(dir string) (*Packages, error) {
			replace(t, dir+"/"+index, "Description: x", "Description: y")
			return Open(ring(t, g), dir)
		},
		"release changed": func(dir string) (*Packages, error) {
			replace(t, dir+"/"+release, "Suite: stable", "Suite: Stable")
			return Open(ring(t, g), dir)
		},
		"text after the signature": func(dir string) (*Packages, error) {
			text, err := os.ReadFile(dir + "/" + release)
			if err != nil {
				t.Fatal(err)
			}
			replace(t, dir+"/"+release, string(text), string(text)+"SHA256:\n 00 1 x/Packages\n")
			return Open(ring(t, g), dir)
		},
		"text before the signature": func(dir string) (*Packages, error) {
			replace(t, dir+"/"+release, "-----BEGIN PGP SIGNED MESSAGE-----", "SHA256:\n-----BEGIN PGP SIGNED MESSAGE----")
			return Open(ring(t, g), dir)
		},
		"no release": func(dir string) (*Packages, error) {
			if err := os.Remove(dir + "/" + release); err != nil {
				t.Fatal(err)
			}
			return Open(ring(t, g), dir)
		},
		"package exchanged": func(dir string) (*Packages, error) {
			data, err := os.ReadFile(pkgdbtest.Deb(t, "gzip"))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(dir+"/pool/tool.deb", data, 0o644); err != nil {
				t.Fatal(err)
			}
			return Open(ring(t, g), dir)
		},
	} {
		if p, err := attack(pkgdbtest.Repository(t, g)); !errors.Is(err, ErrUnsigned) {
			t.Errorf("%s: %v, %v", name, p, err)
		}
	}
	// A foreign package beside a signed one is left out, and named.
	dir := pkgdbtest.Repository(t, g)
	data, err := os.ReadFile(pkgdbtest.Deb(t, "none"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/pool/foreign.deb", data, 0o644); err != nil {
		t.Fatal(err)
	}
	p, err := Open(ring(t, g), dir)
	if err != nil || len(p.Unused) != 1 || !strings.Contains(p.Unused[0].Error(), "foreign.deb") {
		t.Errorf("%v, %v", p, err)
	}
	// The names that apt gives to what it has downloaded.
	lists := t.TempDir()
	for from, to := range map[string]string{release: "host_dists_stable_InRelease", index: "host_dists_stable_main_binary-amd64_Packages", "pool/tool.deb": "tool.deb"} {
		if err := os.Link(filepath.Join(dir, from), filepath.Join(lists, to)); err != nil {
			t.Fatal(err)
		}
	}
	if p, err := Open(ring(t, g), lists); err != nil || len(p.byPath) == 0 {
		t.Errorf("apt's lists: %v, %v", p, err)
	}
}

// The older form of a repository's signature, in a file of its own.
func TestDetachedRepositorySignature(t *testing.T) {
	g := pkgdbtest.NewGPG(t, "ed25519")
	for _, armor := range []string{"--armor", "--no-armor"} {
		dir := pkgdbtest.Repository(t, g)
		release := dir + "/dists/stable/Release"
		if err := os.Remove(dir + "/dists/stable/InRelease"); err != nil {
			t.Fatal(err)
		}
		if p, err := Open(ring(t, g), dir); !errors.Is(err, ErrUnsigned) {
			t.Errorf("no signature: %v, %v", p, err)
		}
		g.Run("gpg", "--batch", armor, "--detach-sign", "--output", release+".gpg", release)
		packages, err := Open(ring(t, g), dir)
		if err != nil {
			t.Fatal(err)
		}
		c := changed("/usr/bin/tool", 0o755, "#!/bin/sh\n")
		packages.Explain([]*baseline.Change{c}, time.Now())
		if want := "package tool 1.2-3 (signed by " + g.Fingerprint + ", Test stable)"; c.Explained != want {
			t.Errorf("%s: got %q, want %q", armor, c.Explained, want)
		}
		if p, err := Open(ring(t, pkgdbtest.NewGPG(t, "ed25519")), dir); !errors.Is(err, ErrUnsigned) {
			t.Errorf("another key: %v, %v", p, err)
		}
		replace(t, release, "Suite: stable", "Suite: Stable")
		if p, err := Open(ring(t, g), dir); !errors.Is(err, ErrUnsigned) {
			t.Errorf("changed: %v, %v", p, err)
		}
	}
}

// An index whose time is past vouches for nothing, and is named.
func TestValidUntil(t *testing.T) {
	g := pkgdbtest.NewGPG(t, "ed25519")
	for until, want := range map[string]error{
		"Sat, 01 Jan 2022 00:00:00 UTC": ErrExpired, "Sat, 1 Jan 2022 00:00:00 UTC": ErrExpired,
		"Sat, 01 Jan 2124 00:00:00 UTC": nil, "Sat, 01 Jan 2124 00:00:00 +0000": ErrUnsigned, "for ever": ErrUnsigned,
	} {
		dir := pkgdbtest.Repository(t, g)
		release := dir + "/dists/stable/Release"
		replace(t, release, "Suite: stable", "Suite: stable\nValid-Until: "+until)
		g.Run("gpg", "--batch", "--yes", "--clearsign", "--output", dir+"/dists/stable/InRelease", release)
		p, err := Open(ring(t, g), dir)
		if !errors.Is(err, want) || want == nil && err != nil {
			t.Errorf("%s: %v, %v", until, p, err)
		}
	}
}

// Packages that are held for long explain nothing once their index is past; that
// there is a later one, or none, is as good as ever.
func TestValidUntilIsJudgedAtTheVerdict(t *testing.T) {
	g := pkgdbtest.NewGPG(t, "ed25519")
	repository := func(until string) string {
		dir := pkgdbtest.Repository(t, g)
		if until != "" {
			replace(t, dir+"/dists/stable/Release", "Suite: stable", "Suite: stable\nValid-Until: "+until)
			g.Run("gpg", "--batch", "--yes", "--clearsign", "--output", dir+"/dists/stable/InRelease", dir+"/dists/stable/Release")
		}
		return dir
	}
	short, long, ever := repository("Sat, 01 Jan 2124 00:00:00 UTC"), repository("Sun, 01 Jan 2226 00:00:00 UTC"), repository("")
	until := time.Date(2124, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		paths []string
		at    time.Time
		want  int
	}{
		{[]string{short}, until.Add(-time.Second), 1},
		{[]string{short}, until.Add(time.Second), 0},
		{[]string{short, long}, until.Add(time.Second), 1},
		{[]string{long, short}, until.Add(time.Second), 1},
		{[]string{short, ever}, until.AddDate(1000, 0, 0), 1},
		{[]string{short, long}, until.AddDate(1000, 0, 0), 0},
	} {
		p, err := Open(ring(t, g), test.paths...)
		if err != nil {
			t.Fatal(err)
		}
		c := changed("/usr/bin/tool", 0o755, "#!/bin/sh\n")
		if n := p.Explain([]*baseline.Change{c}, test.at); n != test.want || c.Counts() == (test.want == 1) {
			t.Errorf("%v at %s: %d explained: %s", test.paths, test.at, n, c.Explanation)
		}
		if test.want == 0 && !strings.Contains(c.Explanation, "package tool 1.2-3, for which nothing vouches any more: signed by") {
			t.Errorf("at %s: %s", test.at, c.Explanation)
		}
	}
}

func replace(t *testing.T, path, old, new string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil || !strings.Contains(string(text), old) {
		t.Fatalf("%s: %v, no %q", path, err, old)
	}
	if err := os.WriteFile(path, []byte(strings.Replace(string(text), old, new, 1)), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestRefusesWhatIsNoKeyring(t *testing.T) {
	path := t.TempDir() + "/ring"
	for _, text := range []string{"", "hello", "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\n-----END PGP PUBLIC KEY BLOCK-----\n"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if ring, err := OpenKeyring(path); !errors.Is(err, ErrKeyring) {
			t.Errorf("%q: %v, %v", text, ring, err)
		}
	}
}

// Files that dpkg itself puts beside configuration files.
func TestConffiles(t *testing.T) {
	pkg := &Package{Name: "tool", Version: "1", Voucher: "test", Files: map[string]File{}}
	edited, mine, packaged := changed("/etc/tool.conf", 0o644, "b=2\n"), changed("/etc/tool.conf", 0o644, "mine\n"), changed("/etc/tool.conf", 0o644, "b=2\n")
	f := File{Type: "file", Mode: 0o644, Size: 4, BLAKE3: edited.New.BLAKE3, Conffile: true}
	pkg.Files["/etc/tool.conf"] = f
	f.Conffile = false
	pkg.Files["/usr/bin/tool"] = f
	var p Packages
	p.Add(pkg)
	at := func(c *baseline.Change, path string) *baseline.Change {
		c.Path, c.New.Names = path, []string{path}
		return c
	}
	dist := at(changed("", 0o644, "b=2\n"), "/etc/tool.conf.dpkg-dist")
	packaged.Kind, packaged.Old = baseline.Changed, mine.New
	old := at(changed("", 0o644, "mine\n"), "/etc/tool.conf.dpkg-old")
	diverted := at(changed("", 0o644, "b=2\n"), "/usr/bin/tool.distrib")
	if n := p.Explain([]*baseline.Change{dist, packaged, old, diverted}, time.Now()); n != 4 {
		t.Errorf("%d explained: %s; %s; %s; %s", n, dist.Explanation, packaged.Explanation, old.Explanation, diverted.Explanation)
	}
	// The same names with other content, or beside files that are no
	// configuration.
	for _, c := range []*baseline.Change{
		at(changed("", 0o644, "evil\n"), "/etc/tool.conf.dpkg-dist"), at(changed("", 0o644, "evil\n"), "/etc/tool.conf.dpkg-old"),
		at(changed("", 0o644, "b=2\n"), "/usr/bin/tool.dpkg-new"), at(changed("", 0o4755, "b=2\n"), "/usr/bin/tool.distrib"),
		changed("/etc/tool.conf", 0o644, "edited\n"),
	} {
		if n := p.Explain([]*baseline.Change{packaged, c}, time.Now()); n != 1 || c.Explained != "" {
			t.Errorf("%s: %s", c.Path, c.Explained)
		}
	}
	edit := changed("/etc/tool.conf", 0o644, "edited\n")
	if p.Explain([]*baseline.Change{edit}, time.Now()); !strings.HasSuffix(edit.Explanation, "a configuration file of package tool 1, and not as it is there") {
		t.Error(edit.Explanation)
	}
}
