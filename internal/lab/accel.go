package lab

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// Accelerators by QEMU's names.
const (
	accelKVM = "kvm"
	accelTCG = "tcg"
)

// probeTime is how long a kernel may take to userspace in the probe. With
// working hardware virtualization it takes one to three seconds.
const probeTime = 15 * time.Second

// probeMarker is what the initial RAM disk prints for the probe.
const probeMarker = "plumbline-probe: userspace"

// accelerator finds out how VMs run here. /dev/kvm proves nothing: software
// stand-ins open and then fail in the guest's early boot, so the probe boots
// the machine's own kernel and waits for userspace. The answer is kept in the
// cache for this kernel and CPU. PLUMBLINE_LAB_ACCEL decides without a probe.
func accelerator(ctx context.Context, cache string, img *image, log io.Writer) (string, error) {
	switch forced := os.Getenv("PLUMBLINE_LAB_ACCEL"); forced {
	case "":
	case accelKVM, accelTCG:
		return forced, nil
	default:
		return "", fmt.Errorf("PLUMBLINE_LAB_ACCEL is %q, want %s or %s", forced, accelKVM, accelTCG)
	}
	device, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		fmt.Fprintf(log, "no hardware virtualization (%v): using QEMU's TCG\n", err)
		return accelTCG, nil
	}
	device.Close()
	dir, err := cached(ctx, cache, filepath.Join("accel", hostIdentity()), func(dir string) error {
		fmt.Fprintf(log, "trying hardware virtualization\n")
		answer := accelKVM
		if err := probeKVM(ctx, img); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			answer = accelTCG + "\n" + err.Error()
		}
		return os.WriteFile(filepath.Join(dir, "answer"), []byte(answer), 0o644)
	})
	if err != nil {
		return "", err
	}
	data, err := os.ReadFile(filepath.Join(dir, "answer"))
	if err != nil {
		return "", err
	}
	answer, reason, _ := strings.Cut(string(data), "\n")
	if answer == accelTCG {
		reason, _, _ = strings.Cut(reason, "\n")
		fmt.Fprintf(log, "hardware virtualization does not work here (%s): using QEMU's TCG\n", reason)
	}
	return answer, nil
}

// hostIdentity names what the probe's answer depends on.
func hostIdentity() string {
	var identity bytes.Buffer
	for _, path := range []string{"/proc/sys/kernel/osrelease", "/proc/sys/kernel/version"} {
		data, err := os.ReadFile(path)
		fmt.Fprintf(&identity, "%s %v\n", data, err)
	}
	cpuinfo, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(cpuinfo)) {
		if strings.HasPrefix(line, "model name") || strings.HasPrefix(line, "microcode") {
			identity.WriteString(line)
		}
		if line == "\n" {
			break // one CPU is enough
		}
	}
	return fmt.Sprintf("%x", sha256.Sum256(identity.Bytes()))[:16]
}

// outputLimit keeps the head of what a guest prints.
type markerWriter struct {
	mu    sync.Mutex
	text  bytes.Buffer
	found chan struct{}
}

func (w *markerWriter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := bytes.Contains(w.text.Bytes(), []byte(probeMarker))
	w.text.Write(p[:min(len(p), max(0, 1<<20-w.text.Len()))])
	if !seen && bytes.Contains(w.text.Bytes(), []byte(probeMarker)) {
		close(w.found)
	}
	return len(p), nil
}

func probeKVM(ctx context.Context, img *image) error {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "kvm", "-cpu", "max",
		"-machine", "q35", "-m", "512", "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio",
		"-kernel", img.vmlinuz(), "-initrd", img.initrd(), "-append", "console=ttyS0 panic=-1 plumbline.probe")
	out := &markerWriter{found: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-out.found:
		cancel()
		<-ended
		return nil
	case err := <-ended:
		select {
		case <-out.found:
			return nil
		default:
		}
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return fmt.Errorf("the probe's kernel did not reach userspace in %v", probeTime)
		}
		return fmt.Errorf("QEMU ended early: %v", err)
	}
}
