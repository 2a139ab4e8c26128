//go:build lab

package vm

import (
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
	"github.com/plumbline-sec/plumbline/internal/lab"
	"github.com/plumbline-sec/plumbline/internal/qmp"
)

// busy makes a guest write without end, in every way that moves files, blocks and
// metadata about, in its root and on a disk of its own, until /var/busy/stop is there.
const busy = `mkdir -p /var/busy/a /var/busy/b /var/busy/deep/er /xfs
modprobe xfs; mount /dev/$(basename $(dirname $(grep -l plumbline-disk0 /sys/block/*/serial))) /xfs || exit 1
mkdir -p /xfs/busy/a /xfs/busy/b /xfs/busy/deep/er
cat > /var/busy.sh <<'E'
n=0
while [ ! -e /var/busy/stop ]; do
  n=$((n + 1))
  cd /var/busy
  for i in 1 2 3 4 5 6 7 8; do head -c $((i * n * 131 % 90000)) /dev/urandom > a/$i-$((n % 20)); done
  mv -f a/1-$((n % 20)) b/moved-$((n % 7)); ln -f a/2-$((n % 20)) b/hard-$((n % 5)); rm -f a/3-*
  truncate -s $((n % 3 * 5000)) a/4-$((n % 20)); chmod $((600 + n % 7)) a/5-$((n % 20))
  ln -sfn target-$n-$(head -c 70 /dev/zero | tr '\0' x) b/link; mv deep/er deep/er-$n; mkdir -p deep/er; mv deep/er-$n deep/er/in-$n; rm -rf deep/er/in-$((n - 3))
  mkdir -p many/$((n % 4)); for i in $(seq 40); do : > many/$((n % 4))/name-$n-$i; done; [ $((n % 4)) = 3 ] && rm -rf many
  echo "line $n" >> b/log; dd if=/dev/urandom of=b/inplace bs=4096 count=1 seek=$((n % 16)) conv=notrunc status=none
  [ $((n % 3)) = 0 ] && sync -f /var/busy
done
E
sed 's,cd /var/busy,cd /xfs/busy,; s,sync -f /var/busy,sync -f /xfs/busy,' /var/busy.sh > /var/busy-xfs.sh
for script in /var/busy.sh /var/busy-xfs.sh; do sh $script >/dev/null 2>&1 </dev/null & done`

// The file systems of a guest in the middle of writing, its root on ext4 and one on
// XFS: at one moment of the machine, an incremental scan reports what a full one does,
// journal and log and all.
func TestSinceOfABusyGuest(t *testing.T) {
	xfs := filepath.Join(t.TempDir(), "xfs")
	volumetest.Tool(t, "truncate", "-s", "320M", xfs)
	volumetest.Tool(t, "mkfs.xfs", "-q", xfs)
	m := lab.StartT(t, lab.Options{Disks: []string{xfs}})
	monitor := func(command string) {
		t.Helper()
		client, err := qmp.Dial(t.Context(), m.QMP)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		if err := client.Execute(t.Context(), command, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	base := captureOf(t, m.Disk, nil)
	s := &Since{Place: Place{QMP: m.QMP}, Dir: filepath.Join(t.TempDir(), "state"), Baseline: base}
	if _, how := check(t, s); !how.Full {
		t.Errorf("first scan: %+v", how)
	}
	m.ShellT(t, busy+"\nuntil [ -e /var/busy/b/log -a -e /xfs/busy/b/log ]; do sleep 1; done")
	looked := false
	for round := range 8 {
		m.ShellT(t, "sleep 3")
		monitor("stop")
		report, how := check(t, s)
		want, replayed := wholly(t, m.QMP, base)
		monitor("cont")
		t.Logf("round %d: replayed %q, %+v", round, replayed, how)
		if how.Full || len(how.Whole) > 0 {
			t.Errorf("round %d: %+v", round, how)
		}
		looked = looked || how.Looked > 0 && how.Looked < report.Objects/4
		if d := cmp.Diff(want, told(t, report)); d != "" {
			t.Fatalf("round %d: full scan against incremental:\n%s", round, d)
		}
	}
	if !looked {
		t.Error("every scan looked at more than a quarter of all objects")
	}
	m.ShellT(t, "touch /var/busy/stop")
}

// wholly is what a full scan of a machine says, and what it replayed.
func wholly(t *testing.T, socket string, b *baseline.Baseline) (report, replayed string) {
	t.Helper()
	snapshot(t, nil, socket, b, nil, func(files *Files, snap *baseline.Snapshot) {
		for _, mount := range files.Mounts {
			replayed += mount.Volume.Type + ": " + mount.Volume.Replayed + "; "
		}
		report = compared(t, b, snap)
	})
	return report, replayed
}
