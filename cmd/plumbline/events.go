package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/plumbline-sec/plumbline/remote"
)

func eventsCommand() *cobra.Command {
	var flags askFlags
	var query remote.EventQuery
	cmd := &cobra.Command{
		Use:   "events",
		Short: "List file events, newest first, with the verifier's verdict on each",
		Example: `  plumbline events --host vm1
  plumbline events --level protect --limit 20
  plumbline events -o ndjson | jq -r 'select(.verdict == "changed") | .path'`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if query.Limit < 1 || query.Limit > 1000 {
				return fail(exitArgument, fmt.Errorf("--limit %d: want 1 to 1000", query.Limit))
			}
			client, err := flags.client()
			if err != nil {
				return err
			}
			events, err := client.Events(cmd.Context(), query)
			if err != nil {
				return askError(err)
			}
			return printAll(cmd, *flags.output, events, func() error { return writeEvents(cmd.OutOrStdout(), events) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&query.Machine, "host", "", "only those of this `MACHINE`")
	f.StringVar(&query.Level, "level", "", "only those of this `LEVEL`: protect, verify or record")
	f.StringVar(&query.Before, "before", "", "only those older than the event with this `ID`")
	f.IntVar(&query.Limit, "limit", 100, "at most `N`, up to 1000")
	cmd.RegisterFlagCompletionFunc("level", cobra.FixedCompletions([]string{"protect", "verify", "record"}, cobra.ShellCompDirectiveNoFileComp))
	flags.register(cmd)
	return cmd
}

func writeEvents(out io.Writer, events []remote.FileEvent) error {
	if len(events) == 0 {
		_, err := fmt.Fprintln(out, "No file event.")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "TIME\tMACHINE\tOPERATION\tPATH\tBY\tLEVEL\tVERDICT")
	for _, e := range events {
		path := e.Path
		if e.NewPath != "" {
			path = strings.TrimLeft(path+" -> "+e.NewPath, " ")
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", when(e.Time), e.Machine, e.Op, printable(path), printable(e.Actor), e.Level, e.Verdict)
	}
	return w.Flush()
}
