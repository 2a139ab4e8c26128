// Command fileops does to files in the guest what no tool of its Debian does.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

func main() {
	commands := map[string]func(args []string) error{
		"exchange": exchange, "map": mapped, "tmpfile": tmpfile, "burst": burst, "work": work, "uring": uring,
	}
	run, ok := commands[os.Args[1]]
	if !ok {
		panic(os.Args[1])
	}
	if err := run(os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// exchange swaps two names.
func exchange(args []string) error {
	return unix.Renameat2(unix.AT_FDCWD, args[0], unix.AT_FDCWD, args[1], unix.RENAME_EXCHANGE)
}

// mapped writes a new file through a shared mapping, after closing it.
func mapped(args []string) error {
	f, err := os.Create(args[0])
	if err != nil {
		return err
	}
	if err := f.Truncate(4096); err != nil {
		return err
	}
	m, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	f.Close()
	m[0] = 'A'
	return unix.Munmap(m)
}

// tmpfile writes a file without a name in a directory, then names it.
func tmpfile(args []string) error {
	fd, err := unix.Open(args[0], unix.O_WRONLY|unix.O_TMPFILE, 0o600)
	if err != nil {
		return err
	}
	if _, err := unix.Write(fd, []byte("x")); err != nil {
		return err
	}
	self := fmt.Sprintf("/proc/self/fd/%d", fd)
	return unix.Linkat(unix.AT_FDCWD, self, unix.AT_FDCWD, args[1], unix.AT_SYMLINK_FOLLOW)
}

// burst makes and removes n directories.
func burst(args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	for i := range n {
		dir := filepath.Join(args[0], strconv.Itoa(i))
		if err := unix.Mkdir(dir, 0o755); err != nil {
			return err
		}
		if err := unix.Rmdir(dir); err != nil {
			return err
		}
	}
	return nil
}

// work is a file-heavy load of n rounds: create, write, rename, read, unlink.
func work(args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	data := make([]byte, 16<<10)
	for i := range n {
		name := filepath.Join(args[0], strconv.Itoa(i))
		if err := os.WriteFile(name, data, 0o644); err != nil {
			return err
		}
		if err := os.Rename(name, name+".new"); err != nil {
			return err
		}
		if _, err := os.ReadFile(name + ".new"); err != nil {
			return err
		}
		if err := os.Remove(name + ".new"); err != nil {
			return err
		}
	}
	return nil
}
