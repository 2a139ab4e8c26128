// Command plumbline-lab builds, boots, changes and takes down real test
// machines.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/plumbline-sec/plumbline/internal/lab"
)

// Exit codes besides 0: 1 for a machine that is not as asked for, 15 for
// arguments that cannot be used. "exec" passes on the code of its command.
const (
	exitFailed   = 1
	exitArgument = 15
)

// exitCode ends the program with a code and no message.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit %d", int(e)) }

// argumentError is a complaint about how the program was called.
type argumentError struct{ error }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:]))
}

func run(ctx context.Context, args []string) int {
	root := rootCommand()
	root.SetArgs(args)
	command, err := root.ExecuteContextC(ctx)
	var code exitCode
	var argument argumentError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &argument), strings.HasPrefix(err.Error(), "unknown command"):
		fmt.Fprintf(os.Stderr, "plumbline-lab: %v\nhint: see %s --help\n", err, command.CommandPath())
		return exitArgument
	case errors.Is(err, lab.ErrUnknownTamper):
		fmt.Fprintf(os.Stderr, "plumbline-lab: %v\nhint: plumbline-lab tamper lists them\n", err)
		return exitArgument
	}
	fmt.Fprintf(os.Stderr, "plumbline-lab: %v\n", err)
	return exitFailed
}

func rootCommand() *cobra.Command {
	root := &cobra.Command{
		Use: "plumbline-lab",
		Example: `  plumbline-lab up --dir /tmp/m1
  plumbline-lab exec --dir /tmp/m1 -- uname -r
  plumbline-lab down --dir /tmp/m1`,
		Short:         "A real test machine: boot it, change it, take it down",
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return argumentError{err} })
	dir := root.PersistentFlags().String("dir", "plumbline-lab", "directory of the machine")
	root.AddCommand(
		bmcCommand(),
		downCommand(dir),
		execCommand(dir),
		hvmCommand(dir),
		qemuCommand(),
		restoreCommand(dir),
		statusCommand(dir),
		tamperCommand(dir),
		upCommand(dir),
	)
	return root
}

// progress writes lines for people to stderr in the form the commands share.
type progress struct{}

func (progress) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		fmt.Fprintf(os.Stderr, "plumbline-lab: %s", line)
	}
	return len(p), nil
}
