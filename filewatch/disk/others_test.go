package disk

import (
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch/disk/disktest"
)

// While QEMU's NBD server is somebody else's there is no snapshot, that server goes on,
// and nothing of ours is left. Once it is gone there is one, also after a scan that was
// killed, whose server is taken for ours.
func TestServerOfOthers(t *testing.T) {
	raw, _ := images(t)
	m := disktest.Start(t, "raw:"+raw)
	theirs := filepath.Join(filepath.Dir(m.QMP), "theirs")
	m.Execute(t, "nbd-server-start", object{"addr": object{"type": "unix", "data": object{"path": theirs}}}, nil)
	for range 2 {
		if set, err := OpenVM(t.Context(), m.QMP); !errors.Is(err, ErrInUse) {
			if err == nil {
				set.Close()
			}
			t.Fatalf("a snapshot beside the server of others: %v", err)
		}
		conn, err := net.Dial("unix", theirs)
		if err != nil {
			t.Fatalf("the server of others: %v", err)
		}
		conn.Close()
	}
	m.Execute(t, "nbd-server-stop", nil, nil)
	killed, err := OpenVM(t.Context(), m.QMP)
	if err != nil {
		t.Fatal(err)
	}
	killed.closers[0]() // the lock dies with a process; all else stays
	set, err := OpenVM(t.Context(), m.QMP)
	if err != nil {
		t.Fatal(err)
	}
	if err := set.Close(); err != nil {
		t.Error(err)
	}
	var nodes []blockNode
	m.Execute(t, "query-named-block-nodes", object{"flat": true}, &nodes)
	if left := oursOf(nodes); len(left) > 0 {
		t.Errorf("left: %q", left)
	}
}

// Nor is anything but the jobs looked at while another program backs a disk up.
func TestBackupOfOthers(t *testing.T) {
	raw, _ := images(t)
	m := disktest.Start(t, "raw:"+raw)
	copied := filepath.Join(filepath.Dir(m.QMP), "copy")
	m.Execute(t, "drive-backup", object{"job-id": "theirs", "device": "d0", "target": copied, "format": "qcow2", "sync": "none"}, nil)
	for range 2 {
		if set, err := OpenVM(t.Context(), m.QMP); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "theirs") {
			if err == nil {
				set.Close()
			}
			t.Fatalf("a snapshot beside a backup: %v", err)
		}
	}
}

// While another program has QEMU copy a disk there is no snapshot, its job goes on, and
// nothing of ours is left.
func TestJobOfOthers(t *testing.T) {
	raw, _ := images(t)
	m := disktest.Start(t, "raw:"+raw)
	copied := filepath.Join(filepath.Dir(m.QMP), "copy")
	m.Execute(t, "drive-mirror", object{"job-id": "theirs", "device": "d0", "target": copied, "format": "raw", "sync": "full", "mode": "absolute-paths"}, nil)
	if set, err := OpenVM(t.Context(), m.QMP); !errors.Is(err, ErrInUse) {
		if err == nil {
			set.Close()
		}
		t.Errorf("a snapshot beside a job: %v", err)
	}
	var jobs []job
	m.Execute(t, "query-jobs", nil, &jobs)
	var nodes []blockNode
	m.Execute(t, "query-named-block-nodes", object{"flat": true}, &nodes)
	if left := oursOf(nodes); len(left) > 0 || len(jobs) != 1 || jobs[0].ID != "theirs" {
		t.Errorf("left: nodes %q, jobs %+v", left, jobs)
	}
}

// Who waits for another scan of the disks does not keep the monitor from those who want
// it for something else; who takes a snapshot away waits until they are done.
func TestMonitorIsTakenInTurns(t *testing.T) {
	raw, _ := images(t)
	m := disktest.Start(t, "raw:"+raw)
	first, err := OpenVM(t.Context(), m.QMP)
	if err != nil {
		t.Fatal(err)
	}
	var monitor sync.Mutex
	type result struct {
		set *Set
		err error
	}
	opened := make(chan result)
	go func() {
		set, err := Running{Socket: m.QMP, Monitor: &monitor}.OpenSince(t.Context(), Track{ID: "id"})
		opened <- result{set, err}
	}()
	for range 20 {
		time.Sleep(5 * time.Millisecond) // in which it comes to wait, most likely
		if !monitor.TryLock() {
			t.Fatal("the monitor is held while another scan is waited for")
		}
		monitor.Unlock()
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	second := <-opened
	if second.err != nil {
		t.Fatal(second.err)
	}
	monitor.Lock()
	closed := make(chan error)
	go func() { closed <- second.set.Close() }()
	select {
	case <-closed:
		t.Error("a snapshot was taken away while another had the monitor")
	case <-time.After(100 * time.Millisecond):
	}
	monitor.Unlock()
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if err := (Running{Socket: m.QMP, Monitor: &monitor}).Untrack(t.Context(), second.set.Track); err != nil {
		t.Error(err)
	}
}
