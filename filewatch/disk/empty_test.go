package disk

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// An empty overlay is to QEMU what it makes itself.
func TestEmptyOverlays(t *testing.T) {
	dir := t.TempDir()
	for _, size := range []int64{512, 4 << 20, 512 << 20, 512<<20 + 1, 3 << 40, 5<<40 + 512} {
		path := filepath.Join(dir, "overlay")
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := writeEmpty(f, size); err != nil {
			t.Fatal(err)
		}
		f.Close()
		if out, err := exec.Command("qemu-img", "check", "-f", "qcow2", path).CombinedOutput(); err != nil {
			t.Errorf("%d bytes: %v\n%s", size, err, out)
		}
		if d := cmp.Diff(made{(size + 511) &^ 511, 64 << 10}, describe(t, path)); d != "" {
			t.Errorf("%d bytes (want, got):\n%s", size, d)
		}
	}
	for _, size := range []int64{-1, 1 << 62} {
		if err := writeEmpty(nil, size); err == nil {
			t.Errorf("an overlay of %d bytes", size)
		}
	}
}

// made is what qemu-img says of an image.
type made struct {
	Size    int64 `json:"virtual-size"`
	Cluster int   `json:"cluster-size"`
}

func describe(t *testing.T, path string) (m made) {
	t.Helper()
	out, err := exec.Command("qemu-img", "info", "-f", "qcow2", "--output=json", path).Output()
	if err == nil {
		err = json.Unmarshal(out, &m)
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}
