package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/plumbline-sec/plumbline/internal/lab"
)

func qemuCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "qemu SUITE",
		Short: "Unpack the QEMU of a Debian suite, and print the directory for PATH",
		Long: `Unpack the QEMU of a Debian suite (` + strings.Join(lab.QEMUSuites, ", ") + `) beside the
images in the cache, and print the directory with qemu-system-x86_64, qemu-img and
qemu-nbd. Nothing is installed. First in PATH it is what machines here run on, and so
do the tests.`,
		Example: `  PATH=$(plumbline-lab qemu trixie):$PATH plumbline-lab up --no-plugin --dir /tmp/m1
  PATH=$(plumbline-lab qemu sid):$PATH go test -count=1 ./measure/mem/qemu ./filewatch/disk`,
		Args: func(command *cobra.Command, args []string) error {
			return wrapArgument(cobra.ExactArgs(1)(command, args))
		},
		RunE: func(command *cobra.Command, args []string) error {
			if !slices.Contains(lab.QEMUSuites, args[0]) {
				return argumentError{fmt.Errorf("no QEMU of %q", args[0])}
			}
			dir, err := lab.OtherQEMU(command.Context(), args[0], command.ErrOrStderr())
			if err == nil {
				fmt.Fprintln(command.OutOrStdout(), dir)
			}
			return err
		},
	}
}
