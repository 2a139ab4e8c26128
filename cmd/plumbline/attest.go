package main

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/plumbline-sec/plumbline/attest"
)

func attestCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "attest",
		Short: "Prove what this machine booted, and judge such proofs",
		Long: `Evidence is a quote of the machine's TPM with the logs that explain it: what
the firmware measured and what the kernel measured (IMA). "quote" makes it,
"verify" judges it against a policy, "explain" tells in words what booted, and
"digest" gives the digest by which firmware measures an image file.`,
		Example: `  plumbline attest quote --nonce 00112233445566778899aabbccddeeff > evidence.json
  plumbline attest explain evidence.json --write-policy policy.toml
  plumbline attest verify evidence.json --policy policy.toml --nonce 00112233445566778899aabbccddeeff --ak ak.json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		attestDigestCommand(),
		attestExplainCommand(),
		attestQuoteCommand(),
		attestVerifyCommand(),
	)
	return cmd
}

// readEvidence reads an evidence file; "-" is standard input.
func readEvidence(cmd *cobra.Command, path string) (*attest.Evidence, error) {
	data, err := readFile(cmd, path, attest.MaxEvidence)
	if err != nil {
		return nil, fail(exitIO, err)
	}
	ev, err := attest.DecodeEvidence(data)
	switch {
	case errors.Is(err, attest.ErrVersion):
		return nil, fail(exitVersion, fmt.Errorf("%s: %w", path, err))
	case err != nil:
		return nil, failHint(exitData, fmt.Errorf("%s: %w", path, err), "evidence is what plumbline attest quote writes")
	}
	return ev, nil
}

func readFile(cmd *cobra.Command, path string, most int64) ([]byte, error) {
	in := cmd.InOrStdin()
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, most+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if int64(len(data)) > most {
		return nil, fmt.Errorf("%s is larger than %d bytes", path, most)
	}
	return data, nil
}

// parseNonce reads a nonce in hexadecimal; empty is none.
func parseNonce(s string) ([]byte, error) {
	nonce, err := hex.DecodeString(s)
	if err != nil || len(nonce) > 64 {
		return nil, failHint(exitArgument, fmt.Errorf("nonce %q is not up to 64 bytes in hexadecimal", s), "openssl rand -hex 32 makes one")
	}
	return nonce, nil
}

// readKey reads an attestation key's public part out of what people have at
// hand: the state file that quote keeps, or evidence they trust.
func readKey(cmd *cobra.Command, path string) ([]byte, error) {
	data, err := readFile(cmd, path, attest.MaxEvidence)
	if err != nil {
		return nil, fail(exitIO, err)
	}
	var file struct {
		Public attest.Hex `json:"public"` // attest/tpm's state
		AK     attest.Hex `json:"ak"`     // attest.Evidence, attest.Identity
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, failHint(exitData, fmt.Errorf("%s holds no attestation key: %w", path, err),
			"give the file of --ak-state, or earlier evidence of the machine")
	}
	public := file.Public
	if len(public) == 0 {
		public = file.AK
	}
	if _, err := attest.CheckAK(public); err != nil {
		return nil, fail(exitData, fmt.Errorf("%s: %w", path, err))
	}
	return public, nil
}

// printFindings writes findings indented below their check.
func printFindings(w io.Writer, findings []attest.Finding) {
	for _, f := range findings {
		fmt.Fprintf(w, "    %s%s\n", where(f), f.Explanation)
		if f.File != "" {
			fmt.Fprintf(w, "      file      %s\n", printableText(f.File))
		}
		if f.Expected != "" {
			fmt.Fprintf(w, "      expected  %s\n", printableText(f.Expected))
		}
		if f.Observed != "" {
			fmt.Fprintf(w, "      observed  %s\n", printableText(f.Observed))
		}
	}
}

// where is the place of a finding: "TCG event 14, PCR 4: ".
func where(f attest.Finding) string {
	var parts []string
	if f.Event != nil {
		log := map[string]string{"tcg": "TCG event", "ima": "IMA entry", "user": "user event"}[f.Log]
		parts = append(parts, fmt.Sprintf("%s %d", log, *f.Event))
	}
	if f.PCR != nil {
		parts = append(parts, fmt.Sprintf("PCR %d", *f.PCR))
	}
	if len(parts) == 0 {
		return ""
	}
	return strings.Join(parts, ", ") + ": "
}

// printableText keeps text from evidence from acting upon a terminal: what is
// not printable is written as \xNN.
func printableText(s string) string {
	var out strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && size == 1 || !unicode.IsPrint(r) {
			for _, b := range []byte(s[:size]) {
				fmt.Fprintf(&out, `\x%02x`, b)
			}
		} else {
			out.WriteString(s[:size])
		}
		s = s[size:]
	}
	return out.String()
}
