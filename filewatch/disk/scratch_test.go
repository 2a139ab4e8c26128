package disk

import (
	"bytes"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch/disk/disktest"
)

// A domain of libvirt has the files of its snapshot in the directory that libvirt
// made for it, and none of them is left. As root the QEMU runs as another user, which
// may write there and in no directory of ours.
func TestSnapshotOfADomain(t *testing.T) {
	raw, _ := images(t)
	dir, err := os.MkdirTemp("", "plumbline-disktest-*") // socket paths must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	domain := filepath.Join(dir, "domain-1-a[b],c")
	if err := os.Mkdir(domain, 0o700); err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(domain, "master-key.aes")
	if err := os.WriteFile(key, make([]byte, 32), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"-object", `{"qom-type":"secret","id":"masterKey0","format":"raw","file":"` + key + `"}`}
	m := disktest.StartWith(t, asAnother(t, args, dir, domain), "raw:"+raw)
	set, err := OpenVM(t.Context(), m.QMP)
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	if names := namesIn(t, domain); len(names) != 3 {
		t.Errorf("in the domain's directory: %q; want the key, a file and a socket", names)
	}
	if err := set.Close(); err != nil {
		t.Error(err)
	}
	if names := namesIn(t, domain); len(names) != 1 {
		t.Errorf("left in the domain's directory: %q", names)
	}
}

// Any other QEMU has them in a directory of ours, that belongs to it.
func TestSnapshotOfAnotherUser(t *testing.T) {
	raw, _ := images(t)
	m := disktest.StartWith(t, asAnother(t, nil), "raw:"+raw)
	set, err := OpenVM(t.Context(), m.QMP)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 16)
	if _, err := set.Disks[0].ReadAt(b, 0); err != nil {
		t.Error(err)
	}
	if err := set.Close(); err != nil {
		t.Error(err)
	}
}

// asAnother adds that QEMU runs as nobody, who gets the directories, where this user
// can do that.
func asAnother(t *testing.T, args []string, dirs ...string) []string {
	t.Helper()
	if os.Geteuid() != 0 {
		return args
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	uid, err := strconv.Atoi(nobody.Uid)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		if err := os.Chown(dir, uid, -1); err != nil {
			t.Fatal(err)
		}
	}
	help, err := exec.Command("qemu-system-x86_64", "-help").Output()
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(help, []byte("-runas")) { // gone from QEMU 11.1
		return append(args, "-runas", "nobody")
	}
	return append(args, "-run-with", "user=nobody")
}

func namesIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestMasterKey(t *testing.T) {
	for argument, want := range map[string]string{
		`{"qom-type":"secret","id":"masterKey0","format":"raw","file":"/var/lib/libvirt/qemu/domain-2-vm1/master-key.aes"}`: "/var/lib/libvirt/qemu/domain-2-vm1/master-key.aes",
		`secret,id=masterKey0,format=raw,file=/var/lib/libvirt/qemu/domain-2-a,,b/master-key.aes`:                           "/var/lib/libvirt/qemu/domain-2-a,b/master-key.aes",
		`{"qom-type":"secret","id":"masterKey0","format":"raw","file":"master-key.aes"}`:                                    "",
		`{"qom-type":"secret","id":"luks0","format":"raw","file":"/tmp/key"}`:                                               "",
		`guest=masterKey0,debug-threads=on`:                                                                                 "",
		strings.Repeat("[", 1<<20):                                                                                          "",
	} {
		path, ok := masterKey(argument)
		if ok != (want != "") || ok && path != want {
			t.Errorf("%.100q: %q, %v; want %q", argument, path, ok, want)
		}
	}
}
