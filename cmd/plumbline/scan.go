package main

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/remote"
)

func scanCommand() *cobra.Command {
	var flags askFlags
	var noWait bool
	var progress string
	cmd := &cobra.Command{
		Use:   "scan HOST",
		Short: "Fire a scan of a machine through its BMC and wait for the verdict",
		Long: `Scan asks the verifier to send a fresh nonce to the machine's BMC, waits for
the report that comes back bound to it, and prints the verifier's verdict.

Exit codes: 0 every check passed, 1 a check failed, 40 a check was not measured
or no report came, 15 the machine is not known or has no BMC, 18 the verifier
cannot be reached.`,
		Example: `  plumbline scan vm1
  plumbline scan vm1 -o json | jq '.report.checks[] | select(.outcome != "pass")'
  plumbline scan vm1 --no-wait`,
		Args: arguments("HOST"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client, err := flags.client()
			if err != nil {
				return err
			}
			drawn, err := newProgress(cmd.ErrOrStderr(), progress, since("waiting for the verdict"))
			if err != nil {
				return err
			}
			scan, err := client.StartScan(cmd.Context(), args[0])
			for err == nil && !scan.Done() && !noWait {
				scan, err = client.Scan(cmd.Context(), scan.ID, 30)
			}
			drawn.stop()
			if err != nil {
				return askError(err)
			}
			if err := printScan(cmd, scan, *flags.output); err != nil {
				return fail(exitIO, err)
			}
			return scanVerdict(scan, noWait)
		},
	}
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "fire the scan and do not wait for its verdict")
	flags.register(cmd)
	progressFlag(cmd, &progress)
	return cmd
}

// scanVerdict is the exit code of a scan.
func scanVerdict(s *remote.ScanEntry, fired bool) error {
	switch {
	case !s.Done() && fired:
		return nil
	case s.State == remote.ScanFailed || s.State == remote.ScanNoReport:
		return fail(exitIncomplete, errors.New(printable(s.Error)))
	case s.Outcome == remote.OutcomePass:
		return nil
	case s.Outcome == remote.OutcomeFail:
		return verdict(exitFail)
	}
	return verdict(exitIncomplete)
}

func printScan(cmd *cobra.Command, s *remote.ScanEntry, format string) error {
	out := cmd.OutOrStdout()
	if format != "text" {
		enc := json.NewEncoder(out)
		if format == "json" {
			enc.SetIndent("", "  ")
		}
		return enc.Encode(s)
	}
	fmt.Fprintf(out, "scan %s of %s, fired %s: %s\n", s.ID, s.Machine, when(s.FiredAt), scanWord(s))
	if s.HostBoot != "" {
		fmt.Fprintf(out, "measured by %s: %s\n", s.MeasuredBy, printable(s.HostBoot))
	}
	if len(s.Report) == 0 {
		return nil
	}
	var report measure.Report
	if err := json.Unmarshal(s.Report, &report); err != nil {
		return fmt.Errorf("read report: %w", err)
	}
	return report.WriteText(out)
}
