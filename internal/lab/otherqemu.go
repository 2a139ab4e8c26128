package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// qemuRecipe is raised when the code that unpacks a QEMU changes.
const qemuRecipe = "2"

// QEMUSuites are the Debian suites whose QEMU [OtherQEMU] can unpack, the oldest
// first: 5.2, 7.2, 10.0 and the newest.
var QEMUSuites = []string{"bullseye", "bookworm", "trixie", "sid"}

// qemuPrograms are what the product and the lab run of QEMU.
var qemuPrograms = []string{"qemu-system-x86_64", "qemu-img", "qemu-nbd"}

// OtherQEMU returns a directory with the QEMU of a Debian suite: put first in PATH,
// it is what the lab and the product run. Its packages, with all that they need, are
// unpacked beside it, nothing is installed, and it runs on a machine with another C
// library. They are downloaded once; removing the directory has the newest fetched.
func OtherQEMU(ctx context.Context, suite string, log io.Writer) (string, error) {
	if !slices.Contains(QEMUSuites, suite) {
		return "", fmt.Errorf("no QEMU of %q, want one of %s", suite, strings.Join(QEMUSuites, ", "))
	}
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	name := filepath.Join("qemu", suite+"-"+qemuRecipe)
	dir, err := cached(ctx, cache, name, func(dir string) error {
		fmt.Fprintf(log, "unpacking the QEMU of %s\n", suite)
		scratch := filepath.Join(dir, "apt")
		apt, err := newApt(ctx, scratch, suite)
		if err != nil {
			return err
		}
		if err := apt.extractAll(ctx, filepath.Join(dir, "root"), "qemu-system-x86", "qemu-utils"); err != nil {
			return err
		}
		return errors.Join(writeWrappers(dir, filepath.Join(cache, name)), os.RemoveAll(scratch))
	})
	if err != nil {
		return "", fmt.Errorf("QEMU of %s: %w", suite, err)
	}
	return filepath.Join(dir, "bin"), nil
}

// writeWrappers makes dir/bin, for programs that will be in final/root: the suite's
// own loader runs them with the suite's libraries (ld.so(8), --library-path), and
// QEMU finds its modules and firmware there.
func writeWrappers(dir, final string) error {
	bin, root := filepath.Join(dir, "bin"), filepath.Join(final, "root")
	if err := os.Mkdir(bin, 0o755); err != nil {
		return err
	}
	var places []string // before trixie some libraries are in /lib
	for _, at := range []string{"usr/lib", "lib"} {
		for _, below := range []string{"", "pulseaudio", "systemd"} {
			places = append(places, filepath.Join(root, at, "x86_64-linux-gnu", below))
		}
	}
	// What /lib64 has may be a link to the machine's own.
	loader := "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
	if _, err := os.Lstat(filepath.Join(dir, "root", loader)); err != nil {
		loader = filepath.Join("usr", loader)
	}
	for _, program := range qemuPrograms {
		argv := []string{filepath.Join(root, loader), "--library-path", strings.Join(places, ":"), filepath.Join(root, "usr/bin", program)}
		if program == "qemu-system-x86_64" {
			argv = append(argv, "-L", filepath.Join(root, "usr/share/qemu"), "-L", filepath.Join(root, "usr/share/seabios"))
		}
		script := "#!/bin/sh\nexport " + shellQuote([]string{"QEMU_MODULE_DIR=" + filepath.Join(root, "usr/lib/x86_64-linux-gnu/qemu")}) +
			"\nexec " + shellQuote(argv) + " \"$@\"\n"
		if err := os.WriteFile(filepath.Join(bin, program), []byte(script), 0o755); err != nil {
			return err
		}
	}
	return nil
}
