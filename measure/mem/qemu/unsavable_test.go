package qemu

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// QEMU ends with a segmentation fault when it is asked for the state of a device
// that no migration can send: it is not asked, and the machine goes on. Of the
// devices without a description of their state usb-net is one in QEMU 7.2, 10.0 and
// 11.1 (hw/usb/dev-network.c), and nvme until 10.0.
func TestKeepsQEMUAliveWithUnsavableDevices(t *testing.T) {
	vm := open(t, startQEMU(t, "-m", "6G", "-device", "qemu-xhci",
		"-netdev", "user,id=n", "-device", "usb-net,netdev=n"))
	calls, err := vm.SystemCalls(t.Context())
	if !errors.Is(err, ErrNoDeviceState) || !strings.Contains(err.Error(), "usb-net") || calls != nil {
		t.Errorf("registers of system calls with such a device: %v, %v", calls, err)
	}
	if _, err := vm.Registers(t.Context()); err != nil {
		t.Errorf("the machine afterwards: %v", err)
	}
}

// The twin: a reason that has nothing to do with devices keeps nothing from being
// read. The disk's format is one that is not sent elsewhere.
func TestReadsStateWhereOnlyFormatsBlock(t *testing.T) {
	// A VMDK whose descriptor names a raw file.
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "flat.vmdk"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(dir, "disk.vmdk")
	descriptor := "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n" +
		"RW 2048 FLAT \"flat.vmdk\" 0\nddb.adapterType = \"ide\"\n"
	if err := os.WriteFile(disk, []byte(descriptor), 0o600); err != nil {
		t.Fatal(err)
	}
	vm := open(t, startQEMU(t, "-m", "6G",
		"-drive", "if=none,id=d,format=vmdk,file="+disk, "-device", "virtio-blk-pci,drive=d"))
	var migration struct {
		Reasons []string `json:"blocked-reasons"`
	}
	if err := vm.client.Execute(t.Context(), "query-migrate", nil, &migration); err != nil || len(migration.Reasons) != 1 {
		t.Fatalf("reasons against a migration: %q, %v; want one, of the format", migration.Reasons, err)
	}
	if calls, err := vm.SystemCalls(t.Context()); err != nil || len(calls) != 1 {
		t.Errorf("registers of system calls: %v, %v", calls, err)
	}
}
