package qemu

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDisksOfAProcess: images are found once each, memory and sockets are not.
func TestDisksOfAProcess(t *testing.T) {
	dir, err := os.MkdirTemp("/var/tmp", "plumbline-test-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		t.Fatal(err)
	}
	if fs.Type == unix.TMPFS_MAGIC {
		t.Fatalf("%s is in memory: the test needs a directory on a disk", dir)
	}
	image := filepath.Join(dir, "root.img")
	if err := os.WriteFile(image, []byte("disk"), 0o600); err != nil {
		t.Fatal(err)
	}
	vm := open(t, startQEMU(t, "-machine", "q35,memory-backend=ram", "-m", "3G",
		"-object", "memory-backend-memfd,id=ram,size=3G,share=on",
		"-drive", "if=none,id=root,format=raw,file="+image, "-device", "virtio-blk-pci,drive=root"))
	want, err := os.Stat(image)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, f := range vm.disks {
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		if os.SameFile(info, want) {
			found++
		}
		if info.Mode()&(os.ModeSocket|os.ModeCharDevice|os.ModeNamedPipe) != 0 {
			t.Errorf("%s is flushed", info.Name())
		}
		if err := unix.Fstatfs(int(f.Fd()), &fs); err != nil || fs.Type == unix.TMPFS_MAGIC {
			t.Errorf("%s is flushed, which is in memory (%v)", info.Name(), err)
		}
	}
	if found != 1 {
		t.Errorf("the image was found %d times among %d files", found, len(vm.disks))
	}
	flush(vm.disks)
}
