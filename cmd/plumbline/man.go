package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

func manCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "man DIR",
		Short: "Write the manual pages",
		Long: `Man writes one manual page per command, section 1, into DIR. The pages are made
from the same text as --help, so they cannot disagree with it.`,
		Example: `  plumbline man /usr/local/share/man/man1
  plumbline man . && man ./plumbline-measure.1`,
		Args: arguments("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return fail(exitIO, err)
			}
			day, err := writtenAt()
			if err != nil {
				return err
			}
			if err := writeManual(cmd.Root(), args[0], day.UTC()); err != nil {
				return fail(exitIO, fmt.Errorf("write manual pages: %w", err))
			}
			return nil
		},
	}
}
