// Package disktest runs a QEMU that never starts its processor: a machine whose
// disks tests write to by way of QEMU, as its guest would.
package disktest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/internal/qmp"
)

// Machine is a QEMU with disks d0, d1, ...
type Machine struct {
	QMP     string // socket
	cmd     *exec.Cmd
	ended   chan struct{} // closed once QEMU has ended
	scratch string
}

// Start runs QEMU with the images, each "FORMAT:PATH", as its disks until the test
// ends.
func Start(tb testing.TB, images ...string) *Machine {
	tb.Helper()
	return StartWith(tb, nil, images...)
}

// StartWith is Start with more of QEMU's arguments.
func StartWith(tb testing.TB, more []string, images ...string) *Machine {
	tb.Helper()
	dir, err := os.MkdirTemp("", "plumbline-disktest-*") // socket paths must be short
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	m := &Machine{QMP: filepath.Join(dir, "qmp"), scratch: filepath.Join(dir, "scratch"), ended: make(chan struct{})}
	args := []string{"-S", "-M", "pc", "-m", "16", "-nodefaults", "-display", "none", "-qmp", "unix:" + m.QMP + ",server=on,wait=off"}
	for i, image := range images {
		format, path, _ := strings.Cut(image, ":")
		args = append(args, "-drive", fmt.Sprintf("if=none,id=d%d,format=%s,discard=unmap,file=%s", i, format, path),
			"-device", fmt.Sprintf("virtio-blk-pci,drive=d%d", i))
	}
	var complaint bytes.Buffer
	m.cmd = exec.Command("qemu-system-x86_64", append(args, more...)...)
	m.cmd.Stderr = &complaint
	if err := m.cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	go func() {
		m.cmd.Wait()
		close(m.ended)
	}()
	tb.Cleanup(m.Kill)
	for range 6000 {
		monitor, err := qmp.Dial(context.Background(), m.QMP)
		if err == nil {
			monitor.Close()
			return m
		}
		select {
		case <-m.ended:
			tb.Fatalf("QEMU ended: %s\n%s", &complaint, strings.Join(m.cmd.Args, " "))
		case <-time.After(50 * time.Millisecond):
		}
	}
	tb.Fatalf("QEMU does not answer: %s\n%s", &complaint, strings.Join(m.cmd.Args, " "))
	return nil
}

// Kill ends QEMU as a power failure would.
func (m *Machine) Kill() {
	m.cmd.Process.Kill()
	<-m.ended
}

// Quit ends QEMU in order, with all that was written on disk.
func (m *Machine) Quit(tb testing.TB) {
	tb.Helper()
	m.Execute(tb, "quit", nil, nil)
	<-m.ended
}

// Execute runs one QMP command.
func (m *Machine) Execute(tb testing.TB, command string, arguments, result any) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	monitor, err := qmp.Dial(ctx, m.QMP)
	if err != nil {
		tb.Fatal(err)
	}
	defer monitor.Close()
	if err := monitor.Execute(ctx, command, arguments, result); err != nil {
		tb.Fatalf("%s: %v", command, err)
	}
}

// Write writes to a disk as the guest would.
func (m *Machine) Write(tb testing.TB, disk int, off int64, data []byte) {
	tb.Helper()
	if err := os.WriteFile(m.scratch, data, 0o600); err != nil {
		tb.Fatal(err)
	}
	var out string
	m.Execute(tb, "human-monitor-command", map[string]any{
		"command-line": fmt.Sprintf("qemu-io d%d \"write -q -s %s %d %d\"", disk, m.scratch, off, len(data))}, &out)
	if out != "" {
		tb.Fatalf("write: %s", out)
	}
}

// Become writes to a disk whatever differs between two of its states.
func (m *Machine) Become(tb testing.TB, disk int, old, new []byte) {
	tb.Helper()
	m.Apply(tb, disk, difference(nil, 0, old, new))
}

// BecomeImage is Become for a disk that is to hold what an image file does, which it
// gives. Old is what the disk holds; nil: what the file does.
func (m *Machine) BecomeImage(tb testing.TB, disk int, old []byte, path string) []byte {
	tb.Helper()
	now, err := os.ReadFile(path)
	if err != nil {
		tb.Fatal(err)
	}
	if old != nil {
		m.Become(tb, disk, old, now)
	}
	return now
}

// Piece is a run of bytes of a disk.
type Piece struct {
	Off  int64
	Data []byte
}

// Apply writes pieces to a disk.
func (m *Machine) Apply(tb testing.TB, disk int, pieces []Piece) {
	tb.Helper()
	for _, p := range pieces {
		m.Write(tb, disk, p.Off, p.Data)
	}
}

// BecomeFile writes to a disk whatever differs between two images of the same
// size, of which little is in memory at a time, and says how many pieces that was.
func (m *Machine) BecomeFile(tb testing.TB, disk int, old, new string) (pieces int) {
	tb.Helper()
	eachDifference(tb, old, new, func(p []Piece) {
		pieces += len(p)
		m.Apply(tb, disk, p)
	})
	return pieces
}

// Difference is what turns one image into another of the same size.
func Difference(tb testing.TB, old, new string) (out []Piece) {
	tb.Helper()
	eachDifference(tb, old, new, func(p []Piece) { out = append(out, p...) })
	return out
}

// eachDifference gives the pieces of 4 MiB at a time.
func eachDifference(tb testing.TB, old, new string, fn func([]Piece)) {
	tb.Helper()
	var files [2]*os.File
	for i, path := range []string{old, new} {
		f, err := os.Open(path)
		if err != nil {
			tb.Fatal(err)
		}
		defer f.Close()
		files[i] = f
	}
	a, b := make([]byte, 4<<20), make([]byte, 4<<20)
	for off := int64(0); ; off += int64(len(a)) {
		n, err := io.ReadFull(files[0], a)
		if n == 0 {
			return
		}
		if _, err := io.ReadFull(files[1], b[:n]); err != nil {
			tb.Fatal(err)
		}
		if err != nil && err != io.ErrUnexpectedEOF {
			tb.Fatal(err)
		}
		if p := difference(nil, off, a[:n], b[:n]); len(p) > 0 {
			fn(p)
		}
	}
}

// difference compares in steps of 4 KiB and joins neighbours.
func difference(out []Piece, off int64, old, new []byte) []Piece {
	const step = 4096
	for at := 0; at < len(new); {
		end := at
		for end < len(new) && !bytes.Equal(old[end:min(end+step, len(new))], new[end:min(end+step, len(new))]) {
			end = min(end+step, len(new))
		}
		if end > at {
			out = append(out, Piece{off + int64(at), bytes.Clone(new[at:end])})
		}
		at = max(end, at+step)
	}
	return out
}
