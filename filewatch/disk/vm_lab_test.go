//go:build lab

package disk

import (
	"bytes"
	"context"
	"os"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/internal/lab"
	"github.com/plumbline-sec/plumbline/internal/qmp"
)

func TestRunningMachine(t *testing.T) {
	m := lab.StartT(t, lab.Options{})
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Minute)
	defer cancel()
	t.Run("snapshot", func(t *testing.T) { snapshotStays(t, ctx, m) })
	t.Run("leftovers", func(t *testing.T) { leftoversAreTakenAway(t, ctx, m) })
}

// The snapshot of a running machine stays as it was while the guest writes, and
// nothing of it is left in QEMU afterwards.
func snapshotStays(t *testing.T, ctx context.Context, m *lab.Machine) {
	mark := bytes.Repeat([]byte("before! "), 512)
	m.ShellT(t, "for i in $(seq 512); do printf 'before! '; done > /var/marker; sync /var/marker")
	off := find(t, m.Disk, mark)
	set, err := OpenVM(ctx, m.QMP)
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	m.ShellT(t, "for i in $(seq 512); do printf 'after!! '; done 1<>/var/marker; sync /var/marker; dd if=/dev/zero of=/var/fill bs=1M count=32 conv=fsync status=none")
	root := set.Disks[len(set.Disks)-1]
	got := make([]byte, len(mark))
	if _, err := root.ReadAt(got, off); err != nil || !bytes.Equal(got, mark) {
		t.Errorf("the snapshot reads %.16q at %#x, %v", got, off, err)
	}
	if at := find(t, m.Disk, bytes.Repeat([]byte("after!! "), 512)); at != off {
		t.Errorf("the guest wrote to %#x, not %#x: the test shows nothing", at, off)
	}
	if err := set.Close(); err != nil {
		t.Error(err)
	}
	nothingLeft(t, ctx, m.QMP)
}

// A scan that was killed leaves its job and export in QEMU; the next one takes
// them away and works.
func leftoversAreTakenAway(t *testing.T, ctx context.Context, m *lab.Machine) {
	set, err := OpenVM(ctx, m.QMP)
	if err != nil {
		t.Fatal(err)
	}
	// Forget it: everything but the lock, which dies with a process.
	set.closers[0]()
	defer set.Close()
	again, err := OpenVM(ctx, m.QMP)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
	nothingLeft(t, ctx, m.QMP)
}

func nothingLeft(t *testing.T, ctx context.Context, socket string) {
	t.Helper()
	monitor, err := qmp.Dial(ctx, socket)
	if err != nil {
		t.Fatal(err)
	}
	defer monitor.Close()
	f := &fleece{monitor: monitor}
	all, err := f.nodes(ctx)
	if nodes := oursOf(all); err != nil || len(nodes) > 0 {
		t.Errorf("nodes left: %q, %v", nodes, err)
	}
	jobs, err := f.jobs(ctx)
	if err != nil || len(jobs) > 0 {
		t.Errorf("jobs left: %+v, %v", jobs, err)
	}
}

// find is where the bytes are on a disk.
func find(t *testing.T, disk string, what []byte) int64 {
	t.Helper()
	data, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(data, what)
	if at < 0 {
		t.Fatalf("%.16q is not on the disk", what)
	}
	return int64(at)
}
