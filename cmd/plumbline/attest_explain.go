package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/plumbline-sec/plumbline/attest"
)

func attestExplainCommand() *cobra.Command {
	var policyFile string
	var events bool
	cmd := &cobra.Command{
		Use:   "explain EVIDENCE",
		Short: "Tell in words what booted",
		Long: `Reads evidence and tells what booted, without judging it. Words that the quote
proves are told first; --events lists every event and whether it is proved.

--write-policy writes a policy that allows exactly what this evidence shows. Use
it on a machine that is known to be good, and read the result.`,
		Example: `  plumbline attest explain evidence.json
  plumbline attest explain evidence.json --events
  plumbline attest explain evidence.json --write-policy policy.toml`,
		Args: arguments("EVIDENCE"),
	}
	cmd.Flags().StringVar(&policyFile, "write-policy", "", "write a policy that allows what this evidence shows to `FILE`")
	cmd.Flags().BoolVar(&events, "events", false, "list every event of the logs")
	format := outputFlag(cmd, "text", "json", "ndjson")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ev, err := readEvidence(cmd, args[0])
		if err != nil {
			return err
		}
		x, damage := attest.Explain(ev)
		switch *format {
		case "json":
			err = writeJSON(cmd.OutOrStdout(), x)
		case "ndjson":
			err = writeLines(cmd.OutOrStdout(), []any{x})
		default:
			printExplanation(cmd.OutOrStdout(), x, events)
		}
		if err != nil {
			return err
		}
		if damage != nil {
			return fail(exitData, damage)
		}
		if policyFile != "" {
			return writePolicy(ev, policyFile)
		}
		return nil
	}
	return cmd
}

func writePolicy(ev *attest.Evidence, path string) error {
	policy, err := attest.ReferencePolicy(ev)
	if err != nil {
		return failHint(exitData, fmt.Errorf("no policy from this evidence: %w", err), "plumbline attest verify says what is wrong with it")
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return failHint(exitIO, err, "a policy is never overwritten: choose another name")
	}
	if err := errors.Join(policy.Encode(f), f.Close()); err != nil {
		return fail(exitIO, err)
	}
	return nil
}

func printExplanation(w io.Writer, x *attest.Explanation, events bool) {
	if x.Verified {
		fmt.Fprintln(w, "what booted, as far as the quote proves it:")
		printBoot(w, x.Claims.Boot)
		fmt.Fprintf(w, "boot number %d of this TPM (reset count), key %s\n", x.Claims.ResetCount, x.Claims.AK)
	} else {
		fmt.Fprintf(w, "the quote does not verify (%s): nothing in this evidence is proved\n", printableText(x.Problem))
	}
	if !events {
		return
	}
	fmt.Fprintln(w, "events (= proved with their data, - digest proved, words are the log's claim, ! not proved):")
	for _, e := range x.Events {
		fmt.Fprintf(w, "  %s %3d PCR %-2d %s: %s\n", proof(e.Proved, e.Bound), e.Event, e.PCR, e.Type, printableText(e.Words))
	}
	for _, e := range x.Files {
		note := ""
		if e.Violation {
			note = " (written while it was measured)"
		}
		fmt.Fprintf(w, "  %s %3d IMA %s %s%s\n", proof(e.Proved, true), e.Entry, e.Digest, printableText(e.File), note)
	}
}

func proof(proved, bound bool) string {
	switch {
	case proved && bound:
		return "="
	case proved:
		return "-"
	}
	return "!"
}
