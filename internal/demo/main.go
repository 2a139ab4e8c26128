// Command demo plays Plumbline's main job on real parts: a test machine boots, is
// enrolled, attested and measured through its BMC, and is then tampered with.
//
// It runs the built binaries as a user would and knows nothing of their inside,
// so what it shows is what they do. It exits 0 only if everything it expected
// was seen.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/term"
)

func main() {
	bin := flag.String("bin", "bin", "directory of the built binaries")
	keep := flag.Bool("keep", false, "keep the scratch directory with all logs")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	if err := play(ctx, *bin, *keep); err != nil {
		fmt.Fprintf(os.Stderr, "demo: %v\n", err)
		os.Exit(1)
	}
}

// errUnmet: something was seen that was not expected; the table has said what.
var errUnmet = errors.New("not everything was as expected")

func play(ctx context.Context, bin string, keep bool) (err error) {
	if bin, err = filepath.Abs(bin); err != nil {
		return err
	}
	// Unix socket paths must fit in 107 bytes: not under a long TMPDIR.
	dir, err := os.MkdirTemp("/tmp", "plumbline-demo-")
	if err != nil {
		return err
	}
	logFile, err := os.Create(filepath.Join(dir, "commands.log"))
	if err != nil {
		return err
	}
	defer logFile.Close()
	s := &story{tools: tools{bin: bin, dir: dir, log: logFile}, out: os.Stdout, started: time.Now()}
	defer func() {
		s.end()
		if err != nil || keep {
			fmt.Fprintf(os.Stderr, "demo: logs are in %s\n", dir)
			return
		}
		os.RemoveAll(dir)
	}()
	if err := s.tell(ctx); err != nil {
		return err
	}
	s.table(os.Stdout)
	if !s.met() {
		return errUnmet
	}
	stay(ctx, os.Stdout, s)
	return nil
}

// stay keeps everything up for a person to look around.
func stay(ctx context.Context, out io.Writer, s *story) {
	if !term.IsTerminal(int(os.Stdin.Fd())) || !term.IsTerminal(int(os.Stdout.Fd())) {
		return
	}
	fmt.Fprintf(out, "\nConsole: %s   user admin, password %s\n", s.console, s.password)
	fmt.Fprintf(out, "Tamper on: %s tamper NAME --dir %s\n", filepath.Join(s.tools.bin, "plumbline-lab"), s.machineDir())
	fmt.Fprintln(out, "Everything stays up until you press Ctrl-C.")
	<-ctx.Done()
}
