package gdbstub

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/internal/qmp"
)

func TestRealStub(t *testing.T) {
	dir := t.TempDir()
	gdb, monitor := filepath.Join(dir, "gdb"), filepath.Join(dir, "qmp")
	cmd := exec.Command("qemu-system-x86_64", "-machine", "q35", "-smp", "2", "-m", "64", "-accel", "tcg",
		"-nodefaults", "-display", "none",
		"-chardev", "socket,id=gdb0,server=on,wait=off,path="+gdb, "-gdb", "chardev:gdb0",
		"-qmp", "unix:"+monitor+",server=on,wait=off")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	q := dial(t, func() (*qmp.Client, error) { return qmp.Dial(t.Context(), monitor) })
	defer q.Close()
	c := dial(t, func() (*Client, error) { return Dial(t.Context(), gdb) })
	if c.CPUs() != 2 {
		t.Errorf("%d CPUs, want 2", c.CPUs())
	}
	if status := runState(t, q); status != "paused" {
		t.Errorf("connected: machine is %s, want paused", status)
	}
	for cpu := range c.CPUs() {
		value := 0x11223344 + uint64(cpu) // the CPU is in real mode
		if err := c.WriteRegister(cpu, "rbx", value); err != nil {
			t.Fatal(err)
		}
	}
	for cpu := range c.CPUs() {
		want := 0x11223344 + uint64(cpu)
		if got, err := c.ReadRegister(cpu, "rbx"); err != nil || got != want {
			t.Errorf("CPU %d: rbx = %#x, %v; want %#x", cpu, got, err, want)
		}
	}
	if err := c.Rewrite(1, 0xf_fff0, 16); err != nil { // of the firmware, which is read only
		t.Error(err)
	}
	if _, err := c.ReadRegister(0, "r99"); !errors.Is(err, ErrNoRegister) {
		t.Errorf("unknown register: %v", err)
	}
	if _, err := c.ReadRegister(2, "rbx"); !errors.Is(err, ErrNoRegister) {
		t.Errorf("unknown CPU: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if status := runState(t, q); status != "running" {
		t.Errorf("detached: machine is %s, want running", status)
	}
}

func dial[T any](t *testing.T, try func() (T, error)) T {
	t.Helper()
	for start := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		client, err := try()
		if err == nil {
			return client
		}
		if time.Since(start) > 10*time.Minute {
			t.Fatal(err)
		}
	}
}

func runState(t *testing.T, q *qmp.Client) string {
	t.Helper()
	var status struct{ Status string }
	if err := q.Execute(t.Context(), "query-status", nil, &status); err != nil {
		t.Fatal(err)
	}
	return status.Status
}

func TestDecode(t *testing.T) {
	tests := map[string]struct {
		want string
		ok   bool
	}{
		"":         {"", true},
		"OK":       {"OK", true},
		"0* ":      {"0000", true},
		"a}\x03b":  {"a#b", true},
		"*!":       {"", false},
		"x}":       {"", false},
		"x*":       {"", false},
		"x*\x01":   {"", false},
		"}\x0a* x": {"****x", true},
	}
	for body, test := range tests {
		got, err := decode([]byte(body))
		if got != test.want || (err == nil) != test.ok {
			t.Errorf("decode(%q) = %q, %v", body, got, err)
		}
	}
}

func TestHostileStub(t *testing.T) {
	for name, speak := range map[string]string{
		"noise":                 "HTTP/1.1 200 OK\r\n",
		"wrong checksum":        "+$OK#00",
		"no description":        "+$x#78+$l#6c+$l#6c",
		"description not XML":   "+$x#78+$l<#a8",
		"ends in a packet":      "+$OK",
		"description of itself": "",
	} {
		t.Run(name, func(t *testing.T) {
			ours, theirs := net.Pipe()
			go func() {
				defer theirs.Close()
				go bytes.NewBuffer(nil).ReadFrom(theirs)
				if speak != "" {
					fmt.Fprint(theirs, speak)
					return
				}
				includeItself(theirs)
			}()
			c := &Client{conn: ours, r: bufio.NewReader(ours)}
			if err := c.open(); err == nil {
				t.Error("no error")
			}
			ours.Close()
		})
	}
}

// includeItself answers everything with a description that includes itself.
func includeItself(w net.Conn) {
	const body = `l<target><include href="target.xml"/></target>`
	for range maxDocuments + 2 {
		if _, err := fmt.Fprintf(w, "+$%s#%02x", body, checksum(body)); err != nil {
			return
		}
	}
}

func TestDialNowhere(t *testing.T) {
	if _, err := Dial(context.Background(), filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("no error")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("0* }\x03"))
	f.Fuzz(func(t *testing.T, body []byte) {
		if text, err := decode(body); err != nil && text != "" {
			t.Errorf("both %q and %v", text, err)
		}
	})
}
