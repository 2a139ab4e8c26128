package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
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
			header := &doc.GenManHeader{Section: "1", Source: "plumbline " + version(), Manual: "Plumbline"}
			root := cmd.Root()
			// Without SOURCE_DATE_EPOCH in the environment the pages carry the day.
			root.DisableAutoGenTag = true
			if err := doc.GenManTree(root, header, args[0]); err != nil {
				return fail(exitIO, fmt.Errorf("write manual pages: %w", err))
			}
			return nil
		},
	}
}
