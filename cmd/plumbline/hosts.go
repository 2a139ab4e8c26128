package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/plumbline-sec/plumbline/remote"
)

func hostsCommand() *cobra.Command {
	var flags askFlags
	var retired bool
	cmd := &cobra.Command{
		Use:   "hosts [NAME]",
		Short: "List the machines that the verifier knows, and what it holds of them",
		Long: `Hosts lists every machine with its state and why. With a name it shows that
machine: its boot in words, its last scans, its file events, what waits for a
decision. A machine that was retired is shown as it was then, under its name or,
if another machine has that by now, under the ID that --retired lists.`,
		Example: `  plumbline hosts
  plumbline hosts vm1
  plumbline hosts retire vm1 --reason "decommissioned, change 4711"
  plumbline hosts --retired
  plumbline hosts -o ndjson | jq -r 'select(.state != "trusted") | .name'`,
		Args: atMostOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := flags.client()
			if err != nil {
				return err
			}
			if len(args) == 1 {
				if retired {
					return failHint(exitArgument, errors.New("--retired takes no NAME"), "a retired machine is shown as any other: plumbline hosts NAME")
				}
				m, err := client.Machine(cmd.Context(), args[0])
				if err != nil {
					return askError(err)
				}
				return printMachine(cmd, m, *flags.output)
			}
			if retired {
				machines, err := client.Retired(cmd.Context())
				if err != nil {
					return askError(err)
				}
				return printAll(cmd, *flags.output, machines, func() error { return writeRetired(cmd.OutOrStdout(), machines) })
			}
			machines, err := client.Machines(cmd.Context())
			if err != nil {
				return askError(err)
			}
			return printAll(cmd, *flags.output, machines, func() error { return writeMachines(cmd.OutOrStdout(), machines) })
		},
	}
	cmd.Flags().BoolVar(&retired, "retired", false, "list the machines that were retired, newest first")
	flags.register(cmd)
	cmd.AddCommand(retireCommand(), readmitCommand())
	return cmd
}

func writeMachines(out io.Writer, machines []remote.Machine) error {
	if len(machines) == 0 {
		_, err := fmt.Fprintln(out, "No machine is known yet.")
		return err
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tSTATE\tBOOT\tSCAN\tFILES\tLAST HEARD\tWHY")
	for _, m := range machines {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", m.Name, m.State, outcomeWord(m.Boot), outcomeWord(m.Scan), filesWord(m.Files),
			when(m.LastSeen), printable(strings.Join(m.Reasons, "; ")))
	}
	return w.Flush()
}

func outcomeWord(a remote.Activity) string {
	switch {
	case !a.Enabled:
		return "-"
	case a.Outcome == "":
		return "none yet"
	}
	return a.Outcome
}

func filesWord(f remote.Files) string {
	switch {
	case f.Violations > 0:
		return fmt.Sprintf("%d differ", f.Violations)
	case f.Baseline == "":
		return "-"
	case f.Unmeasured > 0: // is no pass
		return fmt.Sprintf("%d not measured", f.Unmeasured)
	case len(f.Accepted) > 0: // nor is what people accepted as such
		return fmt.Sprintf("as baseline but for %s", counted(len(f.Accepted), "accepted gap"))
	}
	return "as baseline"
}

func when(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.UTC().Format("2006-01-02 15:04:05Z")
}

func printMachine(cmd *cobra.Command, m *remote.MachineDetail, format string) error {
	out := cmd.OutOrStdout()
	if format != "text" {
		enc := json.NewEncoder(out)
		if format == "json" {
			enc.SetIndent("", "  ")
		}
		return enc.Encode(m)
	}
	if gone := m.Retired; gone != nil {
		fmt.Fprintf(out, "%s was retired at %s by %s: %s\nit was %s since %s\n", m.Name, when(gone.At), printable(gone.By), printable(gone.Reason), m.State, when(m.Since))
	} else {
		fmt.Fprintf(out, "%s is %s since %s\n", m.Name, m.State, when(m.Since))
	}
	for _, r := range m.Reasons {
		fmt.Fprintf(out, "  %s\n", printable(r))
	}
	for _, f := range m.Former {
		fmt.Fprintf(out, "  before, %s had the name, retired at %s by %s: %s\n", f.ID, when(f.At), printable(f.By), printable(f.Reason))
	}
	if m.Appraisal != nil {
		fmt.Fprintf(out, "\nBoot: %s at %s\n", m.Appraisal.Outcome, when(m.Appraisal.At))
		for _, line := range m.Appraisal.Boot {
			fmt.Fprintf(out, "  %s\n", printable(line))
		}
	}
	if len(m.Scans) > 0 {
		fmt.Fprintln(out, "\nScans:")
	}
	for i := range m.Scans[:min(len(m.Scans), 5)] {
		s := &m.Scans[i]
		fmt.Fprintf(out, "  %s  %s  %s  %s\n", when(s.FiredAt), s.ID, scanWord(s), printable(s.Error))
	}
	if len(m.Events) > 0 {
		fmt.Fprintln(out, "\nFile events (plumbline events):")
		if err := writeEvents(out, m.Events[:min(len(m.Events), 5)]); err != nil {
			return err
		}
	}
	if len(m.Review) > 0 {
		fmt.Fprintln(out, "\nWaits for a decision (plumbline review):")
	}
	for _, r := range m.Review {
		fmt.Fprintf(out, "  %s  %s\n", r.ID, printable(r.Summary))
	}
	if len(m.Timeline) > 0 {
		fmt.Fprintln(out, "\nTimeline:")
	}
	for _, t := range m.Timeline[:min(len(m.Timeline), 15)] {
		fmt.Fprintf(out, "  %s  %-7s  %s\n", when(t.Time), t.Severity, printable(t.Text))
	}
	return nil
}

// scanWord is how a scan ended, in one word.
func scanWord(s *remote.ScanEntry) string {
	if s.State == remote.ScanJudged {
		return s.Outcome
	}
	return string(s.State)
}
