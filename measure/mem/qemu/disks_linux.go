package qemu

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// QEMU flushes all disks whenever it stops a machine, after the processors stand
// still and before it answers (vm_stop, system/cpus.c): what the host has not
// written yet of a disk's image it writes then. So it is written just before,
// while the machine runs.

// maxDisks bounds the files that are flushed.
const maxDisks = 64

// openDisks opens what a process has open that has to be written to a disk. What
// cannot be opened is left to QEMU.
func openDisks(pid int) []*os.File {
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var disks []*os.File
	seen := make(map[[2]uint64]bool)
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		if key, ok := written(path); ok && !seen[key] && len(disks) < maxDisks {
			seen[key] = true
			if f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0); err == nil {
				disks = append(disks, f)
			}
		}
	}
	return disks
}

// written tells a file or block device by its device and inode, if it is not in
// memory.
func written(path string) (key [2]uint64, ok bool) {
	info, err := os.Stat(path)
	if err != nil {
		return key, false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	kind := stat.Mode & syscall.S_IFMT
	if !ok || kind != syscall.S_IFREG && kind != syscall.S_IFBLK {
		return key, false
	}
	var fs unix.Statfs_t
	if unix.Statfs(path, &fs) != nil || kind == syscall.S_IFREG && fs.Type == unix.TMPFS_MAGIC {
		return key, false
	}
	return [2]uint64{stat.Dev, stat.Ino}, true
}

// flush writes out what the host holds of the disks. QEMU reports what goes wrong
// with them.
func flush(disks []*os.File) {
	for _, f := range disks {
		_ = unix.Fdatasync(int(f.Fd()))
	}
}
