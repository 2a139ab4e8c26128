package qemutcg

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch/trap"
)

func TestControlArgument(t *testing.T) {
	for _, test := range []struct{ args, want string }{
		{"qemu\x00-plugin\x00/x/plumbline-trap.so,control=/run/t.sock\x00-m\x001G\x00", "/run/t.sock"},
		{"qemu\x00--plugin\x00file=x.so,control=rel.sock\x00", "rel.sock"},
		{"qemu\x00-plugin\x00other.so,arg=1\x00-plugin\x00x.so,control=/a,,b\x00", "/a,b"},
		{"qemu\x00-plugin\x00x.so\x00", ""},
		{"qemu\x00-name\x00x,control=/evil\x00", ""},
		{"qemu\x00-plugin\x00", ""},
		{"qemu\x00-plugin", ""},
		{"", ""},
	} {
		got, ok := controlArgument([]byte(test.args))
		if got != test.want || ok != (test.want != "") {
			t.Errorf("%q: %q, %v", test.args, got, ok)
		}
	}
}

// TestMachineWithoutPlugin asks a real QEMU that was started without one.
func TestMachineWithoutPlugin(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "qmp.sock")
	qemu := exec.Command("qemu-system-x86_64", "-M", "none", "-nodefaults", "-display", "none", "-S", "-qmp", "unix:"+socket+",server=on,wait=off")
	var stderr strings.Builder
	qemu.Stderr = &stderr
	if err := qemu.Start(); err != nil {
		t.Fatal(err)
	}
	defer qemu.Wait()
	defer qemu.Process.Kill()
	var err error
	for range 500 {
		if _, err = Open(t.Context(), socket); !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if !errors.Is(err, trap.ErrNoPlugin) {
		t.Errorf("error %v; QEMU said %q", err, stderr.String())
	}
}

func TestNoMachine(t *testing.T) {
	if _, err := Open(t.Context(), filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}
