//go:build lab

package volume_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch/volume"
	"github.com/plumbline-sec/plumbline/internal/lab"
)

func TestRunningGuest(t *testing.T) {
	disks := makeBusyDisks(t)
	m := lab.StartT(t, lab.Options{Disks: disks})
	t.Run("pictures", func(t *testing.T) { picturesRead(t, m, disks) })
	t.Run("durable", func(t *testing.T) { durableReads(t, m) })
}

// The disk of a running guest, at one moment in the middle of writes: what the guest
// has made durable reads from outside as it reads inside, and no damage is reported
// for files that are at rest.
func durableReads(t *testing.T, m *lab.Machine) {
	m.ShellT(t, `mkdir -p /var/storm/done /var/storm/busy
(until [ -e /var/storm/stop ]; do for i in $(seq 50); do head -c $((i * 97)) /dev/urandom > /var/storm/busy/$i; mv /var/storm/busy/$i /var/storm/busy/m$i; done; rm -f /var/storm/busy/*; done) >/dev/null 2>&1 </dev/null &
for i in $(seq 60); do head -c $((i * 331)) /dev/urandom > /var/storm/done/$i; done
chmod 4711 /var/storm/done/7; chown 1234:4321 /var/storm/done/8; ln /var/storm/done/9 /var/storm/done/nine; ln -s nine /var/storm/done/link
cd /var/storm/done && sync * .`)
	want := m.ShellT(t, `cd /var/storm/done && sha256sum *; cd / && sha256sum /bin/ls /etc/passwd /usr/bin/env`)
	defer m.ShellT(t, "touch /var/storm/stop")
	defer stand(t, m)()
	f, err := os.Open(m.Disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	d, err := volume.Open(f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	v := d.Volumes[0]
	if v.Type != "ext4" || v.NotMeasured != "" {
		t.Fatalf("volume %+v", v)
	}
	t.Logf("replayed %s", v.Replayed)
	for line := range strings.Lines(want) {
		sum, name, _ := strings.Cut(strings.TrimSpace(line), "  ")
		if !strings.HasPrefix(name, "/") {
			name = "/var/storm/done/" + name
		}
		if got, err := digest(v.FS(), name[1:]); err != nil || got != sum {
			t.Errorf("%s: %s, %v; the guest has %s", name, got, err, sum)
		}
	}
	if info, err := fs.Stat(v.FS(), "var/storm/done/7"); err != nil || info.Mode() != 0o711|fs.ModeSetuid {
		t.Errorf("mode %v, %v", info, err)
	}
}

func digest(fsys fs.FS, name string) (string, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", name, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
