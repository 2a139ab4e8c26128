package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/plumbline-sec/plumbline/remote"
)

func reviewCommand() *cobra.Command {
	var flags askFlags
	var all bool
	cmd := &cobra.Command{
		Use:   "review",
		Short: "List what waits for a decision, and decide",
		Example: `  plumbline review
  plumbline review accept 5f1c2d9a00b1c2d3 --reason "update of openssl, change 4711"
  plumbline review reject 5f1c2d9a00b1c2d3 --reason "nobody changed this on purpose"`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			client, err := flags.client()
			if err != nil {
				return err
			}
			state := "open"
			if all {
				state = ""
			}
			items, err := client.Reviews(cmd.Context(), state)
			if err != nil {
				return askError(err)
			}
			return printAll(cmd, *flags.output, items, func() error { return writeReviews(cmd.OutOrStdout(), items) })
		},
	}
	cmd.Flags().BoolVar(&all, "all", false, "also what is decided")
	flags.register(cmd)
	cmd.AddCommand(decideCommand("accept", "Accept a change into the signed baseline, a part that cannot be read, a machine into the fleet, or one in place of another"),
		decideCommand("reject", "Call a change wrong, take back that a part cannot be read, or refuse a machine"))
	return cmd
}

func decideCommand(word, short string) *cobra.Command {
	var flags askFlags
	var reason string
	cmd := &cobra.Command{
		Use:     word + " ID --reason TEXT",
		Short:   short,
		Example: fmt.Sprintf("  plumbline review %s 5f1c2d9a00b1c2d3 --reason \"change 4711\"", word),
		Args:    arguments("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := justified(&flags, reason)
			if err != nil {
				return err
			}
			item, err := client.Decide(cmd.Context(), args[0], remote.Decision{Accept: word == "accept", Reason: reason})
			if err != nil {
				return askError(err)
			}
			if *flags.output != "text" {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(item)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%sed: %s on %s\n", word, printable(item.Summary), item.Machine)
			return err
		},
	}
	reasonFlag(cmd, &reason)
	flags.register(cmd)
	return cmd
}

func writeReviews(out io.Writer, items []remote.Review) error {
	if len(items) == 0 {
		_, err := fmt.Fprintln(out, "Nothing waits for a decision.")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ID\tSTATE\tMACHINE\tLAST\tWHAT\tWHY")
	for _, r := range items {
		state := r.State
		if r.Rejected {
			state += ", rejected"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", r.ID, state, r.Machine, when(r.Last), printable(r.Summary), printable(r.Detail))
	}
	return w.Flush()
}
