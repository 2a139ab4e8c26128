// Package pkgdbtest makes packages and signed repositories for tests, with the
// programs that distributions make them with.
package pkgdbtest

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// GPG is a throw-away GnuPG home with one key.
type GPG struct {
	t                 *testing.T
	home, Fingerprint string
	Public            string // file
}

// NewGPG makes a key of an algorithm as gpg names it.
func NewGPG(t *testing.T, algorithm string) *GPG {
	t.Helper()
	home, err := os.MkdirTemp("", "gpg-") // its agent's sockets need a short path
	if err != nil {
		t.Fatal(err)
	}
	g := &GPG{t: t, home: home}
	t.Cleanup(func() {
		g.Run("gpgconf", "--kill", "all")
		os.RemoveAll(home)
	})
	g.Run("gpg", "--batch", "--quiet", "--passphrase", "", "--quick-gen-key", "signer <signer@example.org>", algorithm, "sign", "never")
	for line := range strings.Lines(g.Run("gpg", "--with-colons", "--list-keys")) {
		if f := strings.Split(line, ":"); f[0] == "fpr" {
			g.Fingerprint = f[9]
		}
	}
	g.Public = filepath.Join(home, "public.gpg")
	g.Run("gpg", "--batch", "--output", g.Public, "--export")
	return g
}

// Run runs a program with the home and gives its output.
func (g *GPG) Run(name string, args ...string) string {
	g.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "GNUPGHOME="+g.home)
	out, err := cmd.CombinedOutput()
	if err != nil {
		g.t.Fatalf("%s %q (packages gnupg, rpm): %v\n%s", name, args, err, out)
	}
	return string(out)
}

// Repository is a signed one with a single package.
func Repository(t *testing.T, g *GPG) (dir string) {
	t.Helper()
	dir = t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(Deb(t, "xz"))
	must(err)
	must(os.MkdirAll(dir+"/pool", 0o755))
	must(os.WriteFile(dir+"/pool/tool.deb", data, 0o644))
	index := fmt.Sprintf("Package: tool\nFilename: pool/tool.deb\nSHA256: %x\nDescription: x\n\n", sha256.Sum256(data))
	must(os.MkdirAll(dir+"/dists/stable/main/binary-amd64", 0o755))
	must(os.WriteFile(dir+"/dists/stable/main/binary-amd64/Packages", []byte(index), 0o644))
	g.Run("gzip", "-k", dir+"/dists/stable/main/binary-amd64/Packages")
	var release strings.Builder
	release.WriteString("Origin: Test\nSuite: stable\nMD5Sum:\n 00 0 main/binary-amd64/Packages\nSHA256:\n")
	for _, name := range []string{"Packages", "Packages.gz"} {
		text, err := os.ReadFile(dir + "/dists/stable/main/binary-amd64/" + name)
		must(err)
		fmt.Fprintf(&release, " %x %d main/binary-amd64/%s\n", sha256.Sum256(text), len(text), name)
	}
	release.WriteString(" " + strings.Repeat("0", 64) + " 1 main/binary-arm64/Packages\n") // not here
	must(os.WriteFile(dir+"/dists/stable/Release", []byte(release.String()), 0o644))
	g.Run("gpg", "--batch", "--clearsign", "--output", dir+"/dists/stable/InRelease", dir+"/dists/stable/Release")
	return dir
}

// Deb makes a package with dpkg-deb.
func Deb(t *testing.T, compression string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range map[string]string{
		"DEBIAN/control": "Package: tool\nVersion: 1.2-3\nArchitecture: all\nMaintainer: x <x@example.org>\nDescription: x\n",
		"bin/tool":       "#!/bin/sh\n",
		"etc/tool.conf":  "a=1\n",
	} {
		path := filepath.Join(dir, "tree", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir+"/tree/bin/tool", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("tool", dir+"/tree/bin/alias"); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "tool.deb")
	if out, err := exec.Command("dpkg-deb", "--root-owner-group", "-Z"+compression, "-b", dir+"/tree", path).CombinedOutput(); err != nil {
		t.Fatalf("dpkg-deb: %v\n%s", err, out)
	}
	return path
}
