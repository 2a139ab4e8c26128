package pkgdb

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/baseline/pkgdb/pkgdbtest"
	"github.com/plumbline-sec/plumbline/filewatch"
)

const spec = `Name: tool
Version: 1.2
Release: 3
Summary: x
License: x
BuildArch: noarch
%description
%install
mkdir -p %{buildroot}/usr/bin %{buildroot}/etc %{buildroot}/var/spool/tool
printf '#!/bin/sh\n' > %{buildroot}/usr/bin/tool
chmod 755 %{buildroot}/usr/bin/tool
ln %{buildroot}/usr/bin/tool %{buildroot}/usr/bin/hard
ln -s tool %{buildroot}/usr/bin/alias
echo a=1 > %{buildroot}/etc/tool.conf
echo data > %{buildroot}/var/spool/tool/queue
printf ping > %{buildroot}/usr/bin/ping
%files
%attr(755,root,root) /usr/bin/tool
%attr(755,root,root) /usr/bin/hard
/usr/bin/alias
%config(noreplace) %attr(644,root,root) /etc/tool.conf
%dir %attr(700,daemon,root) /var/spool/tool
%attr(600,daemon,root) /var/spool/tool/queue
%caps(cap_net_raw,cap_perfmon=ep) %attr(755,root,root) /usr/bin/ping
`

// buildRPM makes a package with rpmbuild and signs it with rpmsign.
func buildRPM(t *testing.T, g *pkgdbtest.GPG, payload string, sign bool) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/tool.spec", []byte(spec), 0o644); err != nil {
		t.Fatal(err)
	}
	g.Run("rpmbuild", "-bb", "--quiet", "--define", "_topdir "+dir, "--define", "_binary_payload "+payload,
		"--define", "_dbpath "+dir+"/db", "--define", "source_date_epoch_from_changelog 0", dir+"/tool.spec")
	path := dir + "/RPMS/noarch/tool-1.2-3.noarch.rpm"
	if sign {
		program, err := exec.LookPath("gpg")
		if err != nil {
			t.Fatal(err)
		}
		g.Run("rpmsign", "--define", "__gpg "+program, "--define", "_gpg_name "+g.Fingerprint, "--define", "_dbpath "+dir+"/db", "--addsign", path)
	}
	return path
}

func TestExplainsWhatAnRPMInstalls(t *testing.T) {
	signers := map[string]*pkgdbtest.GPG{"rsa3072": pkgdbtest.NewGPG(t, "rsa3072"), "ed25519": pkgdbtest.NewGPG(t, "ed25519")}
	for _, c := range []struct{ algorithm, payload string }{{"rsa3072", "w9.gzdio"}, {"ed25519", "w6.xzdio"}, {"ed25519", "w19.zstdio"}, {"ed25519", "w9.bzdio"}, {"ed25519", "w6.lzdio"}} {
		g := signers[c.algorithm]
		path := buildRPM(t, g, c.payload, true)
		packages, err := Open(ring(t, g), path)
		if err != nil {
			t.Fatalf("%v: %v", c, err)
		}
		link := changed("/usr/bin/alias", 0o777, "")
		link.New.Type, link.New.Link, link.New.BLAKE3 = filewatch.TypeSymlink, "tool", baseline.Digest{}
		same := []*baseline.Change{changed("/usr/bin/tool", 0o755, "#!/bin/sh\n"), changed("/bin/hard", 0o755, "#!/bin/sh\n"), changed("/etc/tool.conf", 0o644, "a=1\n"), link}
		if n := packages.Explain(same, time.Now()); n != len(same) || same[0].Explained != "package tool 1.2-3 (signed by "+g.Fingerprint+")" {
			t.Errorf("%v: %d explained: %q", c, n, same[0].Explained)
		}
		// The owner "daemon" has no number outside the guest: it must not change.
		queue := changed("/var/spool/tool/queue", 0o600, "data\n")
		queue.New.UID = 2
		packages.Explain([]*baseline.Change{queue}, time.Now())
		kept := changed("/var/spool/tool/queue", 0o600, "data\n")
		kept.New.UID, kept.Kind, kept.Old = 2, baseline.Changed, &baseline.Record{Names: []string{"x"}, Object: filewatch.Object{UID: 2}}
		packages.Explain([]*baseline.Change{kept}, time.Now())
		if queue.Explained != "" || kept.Explained == "" {
			t.Errorf("%v: %q, %q", c, queue.Explained, kept.Explained)
		}
		for _, attack := range []*baseline.Change{changed("/usr/bin/tool", 0o4755, "#!/bin/sh\n"), changed("/usr/bin/tool", 0o755, "#!/bin/Sh\n"), changed("/usr/bin/other", 0o755, "#!/bin/sh\n")} {
			if packages.Explain([]*baseline.Change{attack}, time.Now()) != 0 {
				t.Errorf("%v: explained %s", c, attack.Explained)
			}
		}
		explainsCapabilities(t, packages)
		asRPMSays(t, g, path)
	}
}

// explainsCapabilities wants a program's capabilities to be those of the package,
// and no others.
func explainsCapabilities(t *testing.T, packages *Packages) {
	t.Helper()
	value := setcap(t, "cap_net_raw,cap_perfmon=ep")
	with := func(path string, old []filewatch.Xattr, xattrs ...filewatch.Xattr) *baseline.Change {
		c := changed(path, 0o755, map[string]string{"/usr/bin/ping": "ping", "/usr/bin/tool": "#!/bin/sh\n"}[path])
		c.New.Xattrs = xattrs
		if old != nil {
			c.Kind, c.Old = baseline.Changed, &baseline.Record{Names: c.New.Names, Object: filewatch.Object{Xattrs: old}}
		}
		return c
	}
	capability := func(value []byte) filewatch.Xattr { return filewatch.Xattr{Name: "security.capability", Value: value} }
	other, label := capability(setcap(t, "cap_net_raw,cap_sys_admin=ep")), filewatch.Xattr{Name: "user.x", Value: []byte("x")}
	for i, c := range []*baseline.Change{
		with("/usr/bin/ping", nil, capability(value)),
		with("/usr/bin/ping", []filewatch.Xattr{other, label}, capability(value), label),
		with("/usr/bin/ping", []filewatch.Xattr{label}, capability(value), label),
	} {
		if packages.Explain([]*baseline.Change{c}, time.Now()) != 1 {
			t.Errorf("twin %d is not explained: %s", i, c.Explanation)
		}
	}
	for i, c := range []*baseline.Change{
		with("/usr/bin/ping", nil), with("/usr/bin/ping", nil, other), with("/usr/bin/ping", nil, capability(value[:12])),
		with("/usr/bin/ping", nil, capability(value), label), with("/usr/bin/ping", []filewatch.Xattr{label}, capability(value)),
		with("/usr/bin/tool", nil, capability(value)), with("/usr/bin/tool", []filewatch.Xattr{label}, capability(value), label),
	} {
		if packages.Explain([]*baseline.Change{c}, time.Now()) != 0 {
			t.Errorf("attack %d: %s", i, c.Explained)
		}
	}
}

// setcap is what the kernel keeps of capabilities that setcap sets.
func setcap(t *testing.T, text string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "program")
	if err := os.WriteFile(path, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("setcap", text, path)
	cmd.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("setcap %q (package libcap2-bin): %v\n%s", text, err, out)
	}
	value := make([]byte, 64)
	n, err := unix.Getxattr(path, "security.capability", value)
	if err != nil {
		t.Fatal(err)
	}
	return value[:n]
}

func TestCapabilitiesAsSetcapSetsThem(t *testing.T) {
	for _, text := range []string{"cap_net_raw=ep", "cap_net_raw+p", "cap_net_raw=p", "= cap_net_raw,cap_bpf=eip", "cap_chown=i", "cap_chown=p cap_kill=p", "cap_chown,cap_kill=ep cap_kill-ep", "CAP_SETUID=pe"} {
		got, err := fileCapabilities(text)
		if want := setcap(t, text); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %x, %v, setcap sets %x", text, got, err, want)
		}
	}
	for _, text := range []string{"", "=", "all=ep", "=ep", "cap_none=ep", "cap_net_raw", "cap_net_raw=x", "cap_net_raw=e", "cap_chown=ep cap_kill=p", "cap_chown="} {
		if got, err := fileCapabilities(text); err == nil {
			t.Errorf("%q: %x", text, got)
		}
	}
}

// asRPMSays compares with what rpm itself reads.
func asRPMSays(t *testing.T, g *pkgdbtest.GPG, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p, err := ReadRPM(f, nil)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(g.Run("rpm", "--nosignature", "--define", "_dbpath "+filepath.Dir(path), "-qp", "--dump", path)) {
		// path size mtime digest mode owner group isconfig isdoc rdev symlink
		words := strings.Fields(line)
		f, ok := p.Files[words[0]]
		digest := f.SHA256.String()
		if digest == "" {
			digest = strings.Repeat("0", 64)
		}
		mode := map[filewatch.Type]int{filewatch.TypeFile: 0o100000, filewatch.TypeDir: 0o040000, filewatch.TypeSymlink: 0o120000}[f.Type] | int(f.Mode)
		got := []string{fmt.Sprint(f.Size), digest, fmt.Sprintf("0%o", mode), fmt.Sprint(map[bool]int{true: 1}[f.Conffile])}
		want := []string{words[1], words[3], words[4], words[7]}
		if !ok || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: got %v, rpm says %v", words[0], got, want)
		}
		n++
	}
	if n != len(p.Files) || n != 7 {
		t.Errorf("%d files, rpm lists %d", len(p.Files), n)
	}
}

func TestRPMSignatureAttacks(t *testing.T) {
	g, other := pkgdbtest.NewGPG(t, "ed25519"), pkgdbtest.NewGPG(t, "ed25519")
	signed := buildRPM(t, g, "w3.zstdio", true)
	if _, err := Open(ring(t, other), signed); !errors.Is(err, ErrUnsigned) {
		t.Errorf("another key: %v", err)
	}
	if _, err := Open(ring(t, g), buildRPM(t, g, "w3.zstdio", false)); !errors.Is(err, ErrUnsigned) {
		t.Errorf("no signature: %v", err)
	}
	if p, err := Open(nil, signed); err != nil || p.byPath["/usr/bin/tool"][0].voucher.text != operatorsWord {
		t.Errorf("benign twin, without a keyring: %v", err)
	}
	data, err := os.ReadFile(signed)
	if err != nil {
		t.Fatal(err)
	}
	// Any change to the header, the digest in the signature header mended or not.
	header := bytes.LastIndex(data, rpmHeaderMagic)
	for _, at := range []int{header + 20, header + 200, bytes.LastIndex(data, []byte("/usr/bin/"))} {
		bent := bytes.Clone(data)
		bent[at] ^= 1
		if p, err := ReadRPM(bytes.NewReader(bent), ring(t, g)); err == nil {
			t.Errorf("byte %d: %v", at, p)
		}
	}
	for n := 0; n < len(data); n += max(1, len(data)/200) {
		if p, err := ReadRPM(bytes.NewReader(data[:n]), nil); err == nil {
			t.Errorf("cut to %d bytes: %v", n, p)
		}
	}
}

func FuzzReadRPM(f *testing.F) {
	lead := make([]byte, rpmLead)
	copy(lead, rpmLeadMagic)
	header := append(bytes.Clone(rpmHeaderMagic), 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 3, 0xe8, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 1, 't', 0, 0, 0, 0, 0, 0, 0)
	f.Add(append(append(lead, header...), header...))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ReadRPM(bytes.NewReader(data), nil)
		if (p == nil) == (err == nil) {
			t.Fatalf("%v and %v", p, err)
		}
	})
}

func FuzzRelease(f *testing.F) {
	f.Add([]byte("Origin: x\nSHA256:\n " + strings.Repeat("0", 64) + " 1 main/Packages\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseRelease(data)
		if (r == nil) == (err == nil) {
			t.Fatalf("%v and %v", r, err)
		}
		indexed{}.parsePackages(bytes.NewReader(data), voucher{text: "x"})
	})
}
