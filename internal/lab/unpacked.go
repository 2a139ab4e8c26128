package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// unpacked are programs of a Debian suite that run here without being installed.
type unpacked struct {
	name     string
	recipe   string   // raised when the code that unpacks them changes
	packages []string // with all that they need
	alone    []string // without
	programs []string // in /usr/bin of the packages
	// places says with which environment and leading arguments a program finds what
	// it reads below root; nil: it reads nothing there.
	places func(root, program string) (environment, arguments []string)
}

// dir returns a directory with the programs of a suite. Their packages, with all that
// they need, are unpacked beside it, nothing is installed, and they run on a machine
// with another C library. They are downloaded once; removing the directory has the
// newest fetched.
func (u unpacked) dir(ctx context.Context, suite string, log io.Writer) (string, error) {
	cache, err := cacheDir()
	if err != nil {
		return "", err
	}
	name := filepath.Join(strings.ToLower(u.name), suite+"-"+u.recipe)
	dir, err := cached(ctx, cache, name, func(dir string) error {
		fmt.Fprintf(log, "unpacking the %s of %s\n", u.name, suite)
		scratch := filepath.Join(dir, "apt")
		apt, err := newApt(ctx, scratch, suite)
		if err != nil {
			return err
		}
		if err := apt.extractAll(ctx, filepath.Join(dir, "root"), u.packages...); err != nil {
			return err
		}
		if err := apt.extract(ctx, filepath.Join(dir, "root"), u.alone...); err != nil {
			return err
		}
		return errors.Join(u.wrap(dir, filepath.Join(cache, name)), os.RemoveAll(scratch))
	})
	if err != nil {
		return "", fmt.Errorf("%s of %s: %w", u.name, suite, err)
	}
	return filepath.Join(dir, "bin"), nil
}

// wrap makes dir/bin, for programs that will be in final/root: the suite's own
// loader runs them with the suite's libraries (ld.so(8), --library-path).
func (u unpacked) wrap(dir, final string) error {
	bin, root := filepath.Join(dir, "bin"), filepath.Join(final, "root")
	if err := os.Mkdir(bin, 0o755); err != nil {
		return err
	}
	var libraries []string // before trixie some are in /lib
	for _, at := range []string{"usr/lib", "lib"} {
		for _, below := range []string{"", "pulseaudio", "systemd"} {
			libraries = append(libraries, filepath.Join(root, at, "x86_64-linux-gnu", below))
		}
	}
	// What /lib64 has may be a link to the machine's own.
	loader := "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
	if _, err := os.Lstat(filepath.Join(dir, "root", loader)); err != nil {
		loader = filepath.Join("usr", loader)
	}
	for _, program := range u.programs {
		argv := []string{filepath.Join(root, loader), "--library-path", strings.Join(libraries, ":"), filepath.Join(root, "usr/bin", program)}
		script := "#!/bin/sh\n"
		if u.places != nil {
			environment, arguments := u.places(root, program)
			script += "export " + shellQuote(environment) + "\n"
			argv = append(argv, arguments...)
		}
		script += "exec " + shellQuote(argv) + " \"$@\"\n"
		if err := os.WriteFile(filepath.Join(bin, program), []byte(script), 0o755); err != nil {
			return err
		}
	}
	return nil
}
