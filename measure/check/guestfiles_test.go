//go:build lab || bench

package check_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/internal/lab"
)

// buildGuestFiles builds what the guest finds in /opt/plumbline.
func buildGuestFiles(dir string) error {
	for _, name := range []string{"bpfload", "kvmguest"} {
		build := exec.Command("go", "build", "-o", filepath.Join(dir, name), "../../internal/lab/"+name)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build %s: %w: %s", name, err, out)
		}
	}
	return nil
}

// runGuests has the machine run guests of its own, until the test ends, whose
// registers look like a kernel's without any protection.
func runGuests(t *testing.T, m *lab.Machine, how string) {
	m.ShellT(t, `set -e
		/opt/plumbline/kvmguest `+how+` > /run/lab-guests 2>&1 < /dev/null &
		echo $! > /run/lab-guests-pid
		for try in $(seq 600); do grep -q running /run/lab-guests && exit 0; sleep 0.1; done
		cat /run/lab-guests >&2; exit 1`)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
		defer cancel()
		if _, err := m.Shell(ctx, `kill $(cat /run/lab-guests-pid); for try in $(seq 600); do pidof kvmguest || exit 0; sleep 0.1; done; exit 1`); err != nil {
			t.Errorf("end the guests: %v", err)
		}
	})
}
