package qemu

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/internal/qmp"
	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/mem/memtest"
)

const gib = 1 << 30

// marks are 8-byte values that QEMU's loader device puts into RAM at reset.
var marks = map[mem.Phys]uint64{
	0x10_0000:        0x1111_2222_3333_4444,
	0x7000_0000:      0x5555_6666_7777_8888, // just below the hole
	4*gib + 0x1000:   0x9999_aaaa_bbbb_cccc, // just above it
	5*gib - 8:        0xdddd_eeee_ffff_0001, // the last byte of RAM
	2*gib - 4 - 1024: 0x0101_0202_0303_0404, // across the end of low RAM's last pages
}

// startQEMU starts a machine that never runs and returns its QMP socket.
func startQEMU(t *testing.T, args ...string) string {
	t.Helper()
	dir := t.TempDir()
	socket := filepath.Join(dir, "qmp")
	args = append([]string{
		"-accel", "tcg", "-S", "-display", "none", "-nodefaults",
		"-qmp", "unix:" + socket + ",server=on,wait=off",
	}, args...)
	for at, v := range marks {
		args = append(args, "-device", fmt.Sprintf("loader,addr=%#x,data=%#x,data-len=8", uint64(at), v))
	}
	cmd := exec.Command("qemu-system-x86_64", args...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatalf("start QEMU: %v", err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for deadline := time.Now().Add(10 * time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if pid, err := qmp.PeerPID(t.Context(), socket); err == nil && pid == cmd.Process.Pid {
			return socket
		}
		if time.Now().After(deadline) {
			t.Fatalf("QEMU did not start: %v", cmd.Args)
		}
	}
}

func open(t *testing.T, socket string) *VM {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	vm, err := Open(ctx, socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { vm.Close() })
	return vm
}

// RAM of 3 GiB on q35 is 2 GiB below the hole and 1 GiB above 4 GiB.
func TestRAMConforms(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ram")
	tests := map[string]struct {
		args   []string
		shared bool
	}{
		"file": {[]string{"-machine", "q35,memory-backend=ram", "-m", "3G",
			"-object", "memory-backend-file,id=ram,size=3G,share=on,mem-path=" + file}, true},
		"memfd": {[]string{"-machine", "q35,memory-backend=ram", "-m", "3G",
			"-object", "memory-backend-memfd,id=ram,size=3G,share=on"}, true},
		"no file": {[]string{"-machine", "q35,memory-backend=ram", "-m", "3G",
			"-object", "memory-backend-ram,id=ram,size=3G,share=on"}, true},
		"nodes": {[]string{"-machine", "q35", "-m", "3G", "-smp", "2",
			"-object", "memory-backend-memfd,id=a,size=1G,share=on", "-numa", "node,memdev=a,cpus=0",
			"-object", "memory-backend-memfd,id=b,size=2G,share=on", "-numa", "node,memdev=b,cpus=1"}, true},
		"private": {[]string{"-machine", "q35", "-m", "3G"}, false},
		"private file": {[]string{"-machine", "q35,memory-backend=ram", "-m", "3G",
			"-object", "memory-backend-memfd,id=ram,size=3G,share=off"}, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			vm := open(t, startQEMU(t, tt.args...))
			if got := vm.RAM().Shared(); got != tt.shared {
				t.Errorf("shared: %v", got)
			}
			memtest.Test(t, vm.Memory(), memtest.Options{
				// After reset the chipset maps ROM at 0xc0000 to 0xfffff.
				Extents: []mem.Extent{{Start: 0, Size: 0xc_0000}, {Start: 0x10_0000, Size: 2*gib - 0x10_0000}, {Start: 4 * gib, Size: gib}},
				Bytes:   markBytes(),
			})
		})
	}
}

func markBytes() map[mem.Phys][]byte {
	out := make(map[mem.Phys][]byte)
	for at, v := range marks {
		out[at] = binary.LittleEndian.AppendUint64(nil, v)
	}
	return out
}

// Reading must not allocate RAM that the guest has not touched, in a file that is
// read through a mapping or in another.
func TestReadingAllocatesNothing(t *testing.T) {
	t.Run("file", func(t *testing.T) { readingAllocatesNothing(t, t.TempDir()) })
	t.Run("tmpfs", func(t *testing.T) {
		dir, err := os.MkdirTemp("/dev/shm", "plumbline-test-")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		readingAllocatesNothing(t, dir)
	})
}

func readingAllocatesNothing(t *testing.T, dir string) {
	file := filepath.Join(dir, "ram")
	vm := open(t, startQEMU(t, "-machine", "q35,memory-backend=ram", "-m", "3G",
		"-object", "memory-backend-file,id=ram,size=3G,share=on,mem-path="+file))
	blocks := func() int64 {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		return info.Sys().(*syscall.Stat_t).Blocks
	}
	before := blocks()
	chunk := make([]byte, 1<<20)
	for at := mem.Phys(gib); at < gib+64<<20; at += 1 << 20 {
		if err := vm.Memory().ReadPhys(chunk, at); err != nil {
			t.Fatal(err)
		}
	}
	if after := blocks(); after != before {
		t.Errorf("the RAM file grew from %d to %d blocks", before, after)
	}
	touched, err := vm.RAM().Touched()
	if err != nil {
		t.Fatal(err)
	}
	var sum uint64
	for _, e := range touched {
		sum += e.Size
	}
	if sum == 0 || sum > 64<<20 {
		t.Errorf("%d bytes are touched in a machine that never ran", sum)
	}
}

func TestPauseResumes(t *testing.T) {
	socket := startQEMU(t, "-machine", "q35", "-m", "3G")
	running := func(vm *VM) bool {
		var status struct{ Running bool }
		if err := vm.client.Execute(t.Context(), "query-status", nil, &status); err != nil {
			t.Fatal(err)
		}
		return status.Running
	}
	vm := open(t, socket)

	resume, err := vm.Pause(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := resume(); err != nil || running(vm) {
		t.Errorf("a machine that stood still runs after a pause (%v)", err)
	}

	if err := vm.client.Execute(t.Context(), "cont", nil, nil); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if resume, err = vm.Pause(ctx); err != nil || running(vm) {
		t.Fatalf("machine was not paused (%v)", err)
	}
	cancel()
	if err := resume(); err != nil || !running(vm) {
		t.Errorf("machine does not run after the scan was cancelled (%v)", err)
	}
	if vm.PausedFor() <= 0 {
		t.Errorf("paused for %v", vm.PausedFor())
	}

	if resume, err = vm.Pause(t.Context()); err != nil {
		t.Fatal(err)
	}
	vm.client.Close() // the monitor connection breaks during the pause
	if err := resume(); err != nil {
		t.Fatal(err)
	}
	client, err := qmp.Dial(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	vm.client = client
	if !running(vm) {
		t.Error("machine does not run after the monitor broke")
	}
}

func TestRegistersOfRealQEMU(t *testing.T) {
	vm := open(t, startQEMU(t, "-machine", "q35", "-m", "3G", "-smp", "3"))
	regs, err := vm.Registers(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(regs) != 3 || regs[2].CPU != 2 {
		t.Fatalf("%d CPUs: %+v", len(regs), regs)
	}
	// After reset: Intel SDM vol. 3A, table 10-1.
	if r := regs[0]; r.CR0 != 0x6000_0010 || r.CS.Selector != 0xf000 || r.CS.Base != 0xffff_0000 || r.IDT.Limit != 0xffff {
		t.Errorf("registers after reset: %+v", r)
	}
}

// The device state of a machine that never ran: nothing is set, nothing moves.
func TestSystemCallsOfRealQEMU(t *testing.T) {
	socket := startQEMU(t, "-machine", "q35", "-m", "3G", "-smp", "3")
	vm := open(t, socket)
	for range 2 {
		calls, err := vm.SystemCalls(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(calls) != 3 || calls[2].CPU != 2 || calls[0] != (mem.SystemCalls{}) {
			t.Errorf("after reset: %+v", calls)
		}
		if vm.PausedFor() != 0 {
			t.Errorf("a machine that stood still was paused for %v", vm.PausedFor())
		}
	}
	var status struct{ Running bool }
	if err := vm.client.Execute(t.Context(), "query-status", nil, &status); err != nil || status.Running {
		t.Errorf("the machine runs (%v)", err)
	}
	// QEMU lets go of descriptors once the machine runs and the monitor is left.
	if err := vm.client.Execute(t.Context(), "cont", nil, nil); err != nil {
		t.Fatal(err)
	}
	var told []string
	vm.AtStops(func() func() {
		told = append(told, "before")
		return func() { told = append(told, "after") }
	})
	if _, err := vm.SystemCalls(t.Context()); err != nil || vm.PausedFor() <= 0 {
		t.Errorf("paused for %v (%v)", vm.PausedFor(), err)
	}
	if len(told) < 2 || len(told)%2 != 0 || told[0] != "before" || told[1] != "after" {
		t.Errorf("told of its stops: %q", told)
	}
	vm.client.Close()
	client, err := qmp.Dial(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	vm.client = client
	var sets []any
	if err := client.Execute(t.Context(), "query-fdsets", nil, &sets); err != nil || len(sets) > 0 {
		t.Errorf("descriptors are left in QEMU: %v (%v)", sets, err)
	}
}
