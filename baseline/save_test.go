package baseline

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/plumbline-sec/plumbline/internal/durable"
)

// fullDisk takes so many bytes and then no more.
type fullDisk struct {
	w    io.Writer
	left int
}

func (f *fullDisk) Write(b []byte) (int, error) {
	n, err := f.w.Write(b[:min(len(b), f.left)])
	f.left -= n
	if err == nil && n < len(b) {
		err = syscall.ENOSPC
	}
	return n, err
}

func TestDiskFullLeavesOldBaselineWhole(t *testing.T) {
	k := key(t)
	path := filepath.Join(t.TempDir(), "b")
	old := write(t, snapshot(t, everyKind(), nil), k)
	if err := os.WriteFile(path, old, 0o600); err != nil {
		t.Fatal(err)
	}
	s := snapshot(t, tree(), nil)
	save := func(room int) error {
		return durable.Replace(path, 0o600, func(w io.Writer) error {
			_, err := s.Write(&fullDisk{w, room}, &Edition{Lineage: "l", Version: 2}, k)
			return err
		})
	}
	for room := 0; room < 1000; room += 50 {
		if err := save(room); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("room for %d bytes: %v", room, err)
		}
		now, err := os.ReadFile(path)
		if err != nil || string(now) != string(old) {
			t.Fatalf("room for %d bytes: the old baseline is gone (%v)", room, err)
		}
	}
	left, err := filepath.Glob(filepath.Dir(path) + "/.*")
	if err != nil || len(left) != 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
	if err := save(1 << 20); err != nil {
		t.Fatalf("benign twin: %v", err)
	}
}
