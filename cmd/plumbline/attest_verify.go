package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/plumbline-sec/plumbline/attest"
	"github.com/plumbline-sec/plumbline/internal/bin"
)

func attestVerifyCommand() *cobra.Command {
	var policyFile, nonceHex, akFile string
	cmd := &cobra.Command{
		Use:   "verify EVIDENCE --policy FILE",
		Short: "Judge evidence against a policy",
		Long: `Checks the quote's signature, its nonce and key, that the logs lead to the
quoted PCRs, and that what they tell is what the policy allows. It needs no TPM
and asks no server.

Without --nonce the quote may be an old one, without --ak (or tpm.ak in the
policy) it may be another machine's: each of these is then "not measured" and
the result incomplete.

Exit codes: 0 all checks pass, 1 at least one fails, 40 none fails but not all
ran; 17 the policy cannot be used, 24 the evidence is malformed.`,
		Example: `  plumbline attest verify evidence.json --policy policy.toml --nonce 00112233445566778899aabbccddeeff --ak ak.json
  plumbline attest verify evidence.json --policy policy.toml -o json`,
		Args: arguments("EVIDENCE"),
	}
	flags := cmd.Flags()
	flags.StringVar(&policyFile, "policy", "", "what the evidence must show, TOML `FILE`")
	flags.StringVar(&nonceHex, "nonce", "", "the challenge that was given out, in `HEX`")
	flags.StringVar(&akFile, "ak", "", "the machine's attestation key: its --ak-state `FILE`, or earlier evidence that is trusted")
	format := outputFlag(cmd, "text", "json", "ndjson")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if policyFile == "" {
			return failHint(exitArgument, errors.New("no --policy"), "plumbline attest explain --write-policy makes one from a machine known to be good")
		}
		policy, err := readPolicy(policyFile)
		if err != nil {
			return err
		}
		opts, err := verifyOptions(cmd, nonceHex, akFile)
		if err != nil {
			return err
		}
		ev, err := readEvidence(cmd, args[0])
		if err != nil {
			return err
		}
		result, err := attest.Verify(ev, policy, opts)
		if err != nil {
			return fail(exitConfig, err)
		}
		switch *format {
		case "json":
			err = writeJSON(cmd.OutOrStdout(), result)
		case "ndjson":
			err = printAttested(cmd.OutOrStdout(), result)
		default:
			printResult(cmd.OutOrStdout(), result)
		}
		if err != nil {
			return err
		}
		return verdict(outcomeCode(result.Outcome))
	}
	return cmd
}

func readPolicy(path string) (*attest.Policy, error) {
	data, err := bin.ReadFile(path, maxText)
	if err != nil {
		return nil, fail(exitConfig, fmt.Errorf("policy: %w", err))
	}
	policy, err := attest.ParsePolicy(data)
	if err != nil {
		return nil, failHint(exitConfig, fmt.Errorf("%s: %w", path, err), "docs/attest.md lists what a policy can ask")
	}
	return policy, nil
}

func verifyOptions(cmd *cobra.Command, nonceHex, akFile string) (opts attest.VerifyOptions, err error) {
	if opts.Nonce, err = parseNonce(nonceHex); err != nil {
		return opts, err
	}
	if akFile != "" {
		opts.AK, err = readKey(cmd, akFile)
	}
	return opts, err
}

// printAttested prints one check a line, then the result without its checks.
func printAttested(w io.Writer, r *attest.Result) error {
	last := struct {
		*attest.Result
		Checks *struct{} `json:"checks,omitempty"`
	}{Result: r}
	return errors.Join(writeLines(w, r.Checks), writeLines(w, []any{last}))
}

func printResult(w io.Writer, r *attest.Result) {
	fmt.Fprintf(w, "%s\n", r.Outcome)
	for _, c := range r.Checks {
		fmt.Fprintf(w, "  %-12s %-12s %s\n", c.Name, c.Outcome, printableText(c.Reason))
		printFindings(w, c.Findings)
	}
	if len(r.Claims.Boot) > 0 {
		fmt.Fprintln(w, "what booted:")
		printBoot(w, r.Claims.Boot)
	}
}

func printBoot(w io.Writer, steps []string) {
	for i, step := range steps {
		fmt.Fprintf(w, "  %2d. %s\n", i+1, step)
	}
}
