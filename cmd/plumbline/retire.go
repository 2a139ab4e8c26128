package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/plumbline-sec/plumbline/remote"
)

func retireCommand() *cobra.Command {
	var flags askFlags
	var reason string
	cmd := &cobra.Command{
		Use:   "retire NAME --reason TEXT",
		Short: "Take a machine out of service and keep its record",
		Long: `Retire takes a machine out of service: it is not scanned or attested any more,
is never stale and alerts nobody, and the verifier refuses its agent. Its record
stays readable under the ID that is printed. Its name is free for another
machine; its TPM comes back only if an administrator approves it.`,
		Example: `  plumbline hosts retire vm1 --reason "decommissioned, change 4711"`,
		Args:    arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := justified(&flags, reason)
			if err != nil {
				return err
			}
			gone, err := client.Retire(cmd.Context(), args[0], reason)
			if err != nil {
				return askError(err)
			}
			if *flags.output != "text" {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(gone)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "retired: %s, its record is %s\n", gone.Name, gone.ID)
			return err
		},
	}
	reasonFlag(cmd, &reason)
	flags.register(cmd)
	return cmd
}

func readmitCommand() *cobra.Command {
	var flags askFlags
	var reason string
	cmd := &cobra.Command{
		Use:   "readmit NAME --reason TEXT",
		Short: "Take the name of a retired machine back into service",
		Long: `Readmit takes the name of a retired machine back into service, for a machine of
which nothing is known yet: it has no baseline, and no TPM until one enrols. A
machine with an agent of its own needs no such thing: it enrols.`,
		Example: `  plumbline hosts readmit vm1 --reason "retired by mistake"`,
		Args:    arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := justified(&flags, reason)
			if err != nil {
				return err
			}
			if err := client.Readmit(cmd.Context(), args[0], reason); err != nil {
				return askError(err)
			}
			if *flags.output != "text" {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(map[string]string{"name": args[0]})
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "in service: %s\n", args[0])
			return err
		},
	}
	reasonFlag(cmd, &reason)
	flags.register(cmd)
	return cmd
}

func reasonFlag(cmd *cobra.Command, reason *string) {
	cmd.Flags().StringVar(reason, "reason", "", "why, as `TEXT`; kept with the decision")
}

// justified is the client of a decision, which needs a reason.
func justified(flags *askFlags, reason string) (*remote.Client, error) {
	if reason == "" {
		return nil, fail(exitArgument, errors.New("a decision needs a --reason, which is kept with it"))
	}
	return flags.client()
}

func writeRetired(out io.Writer, machines []remote.Machine) error {
	if len(machines) == 0 {
		_, err := fmt.Fprintln(out, "No machine was retired.")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tRETIRED\tBY\tWAS\tWHY")
	for _, m := range machines {
		if gone := m.Retired; gone != nil {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", gone.ID, when(gone.At), printable(gone.By), m.State, printable(gone.Reason))
		}
	}
	return w.Flush()
}
