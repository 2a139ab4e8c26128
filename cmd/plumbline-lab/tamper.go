package main

import (
	"context"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/plumbline-sec/plumbline/internal/lab"
)

func tamperCommand(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:   "tamper [NAME]...",
		Short: "Change the running machine in a named way; without a name, list them",
		Example: `  plumbline-lab tamper
  plumbline-lab tamper --dir /tmp/m1 syscall-table`,
		RunE: func(command *cobra.Command, names []string) error {
			if len(names) == 0 {
				return listTampers(command)
			}
			return forEach(command.Context(), *dir, names, (*lab.Machine).Tamper)
		},
	}
}

func restoreCommand(dir *string) *cobra.Command {
	return &cobra.Command{
		Use:     "restore NAME...",
		Short:   "Undo what tamper did",
		Example: `  plumbline-lab restore --dir /tmp/m1 syscall-table`,
		Args: func(command *cobra.Command, args []string) error {
			return wrapArgument(cobra.MinimumNArgs(1)(command, args))
		},
		RunE: func(command *cobra.Command, names []string) error {
			return forEach(command.Context(), *dir, names, (*lab.Machine).Restore)
		},
	}
}

func forEach(ctx context.Context, dir string, names []string, do func(*lab.Machine, context.Context, string) error) error {
	m, err := lab.Open(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := do(m, ctx, name); err != nil {
			return err
		}
	}
	return nil
}

func listTampers(command *cobra.Command) error {
	table := tabwriter.NewWriter(command.OutOrStdout(), 0, 8, 2, ' ', 0)
	for _, t := range lab.Tampers() {
		check := t.Check
		if t.Benign {
			check = "(benign)"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", t.Name, check, t.Doc)
	}
	return table.Flush()
}
