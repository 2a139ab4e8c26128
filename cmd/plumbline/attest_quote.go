package main

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/plumbline-sec/plumbline/attest/tpm"
)

func attestQuoteCommand() *cobra.Command {
	var device, nonceHex, state, out string
	var format *string
	var opts tpm.CollectOptions
	cmd := &cobra.Command{
		Use:   "quote",
		Short: "Make evidence of what this machine booted",
		Long: `Has the TPM sign its PCRs together with a nonce and writes evidence in JSON:
the quote, the PCR values, the firmware's event log and the kernel's IMA list.

The nonce comes from whoever is to be convinced; without one a random nonce is
used, and the evidence then proves nothing about when it was made.

The attestation key is derived in the TPM; the file of --ak-state tells which
one, holds nothing secret, and is made on first use.`,
		Example: `  plumbline attest quote --nonce 00112233445566778899aabbccddeeff --out evidence.json
  plumbline attest quote --tpm /run/swtpm/data.sock --ak-state ak.json | plumbline attest explain -`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			nonce, err := parseNonce(nonceHex)
			if err != nil {
				return err
			}
			if len(nonce) == 0 {
				nonce = make([]byte, 32)
				rand.Read(nonce)
			}
			opts.Nonce = nonce
			return quote(cmd, device, state, out, *format, opts)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&device, "tpm", tpm.DefaultDevice, "TPM `PATH`: a device, or the socket of a software TPM")
	flags.StringVar(&nonceHex, "nonce", "", "the verifier's challenge in `HEX`, at most 64 bytes")
	flags.StringVar(&state, "ak-state", "/var/lib/plumbline/ak.json", "`FILE` that says which attestation key is this machine's")
	flags.StringVar(&out, "out", "", "write the evidence to `FILE` instead of standard output")
	flags.IntSliceVar(&opts.PCRs, "pcrs", nil, "`PCRS` to quote (default 0 to 15)")
	flags.StringVar(&opts.EventLog, "event-log", "", "firmware's event log `FILE`, - for none (default the kernel's copy; none with a socket)")
	flags.StringVar(&opts.IMALog, "ima-log", "", "IMA list `FILE`, - for none (default the kernel's)")
	flags.StringVar(&opts.UserLog, "user-log", "", "systemd's measurement log `FILE`, - for none (default the system's)")
	format = outputFlag(cmd, "json", "ndjson")
	return cmd
}

// lastPCR is the last of a TPM of the PC client (TCG PC Client Platform TPM Profile
// 1.05, 4.6).
const lastPCR = 23

func quote(cmd *cobra.Command, device, state, out, format string, opts tpm.CollectOptions) error {
	for _, pcr := range opts.PCRs {
		if pcr < 0 || pcr > lastPCR {
			return fail(exitArgument, fmt.Errorf("--pcrs: PCR %d does not exist: 0 to %d do", pcr, lastPCR))
		}
	}
	dev, err := tpm.Open(device)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return failHint(exitIO, err, "run as root, or as a member of the group tss")
	case err != nil:
		return failHint(exitIO, err, "--tpm names the TPM; virtual machines need one in their configuration")
	}
	defer dev.Close()
	if err := os.MkdirAll(filepath.Dir(state), 0o755); err != nil {
		return failHint(exitIO, err, "--ak-state names another file")
	}
	ak, err := dev.LoadOrCreateAK(state)
	switch {
	case errors.Is(err, tpm.ErrAKChanged):
		return failHint(exitData, err, fmt.Sprintf("remove %s and enrol this machine anew", state))
	case err != nil:
		return fail(exitIO, err)
	}
	ev, err := dev.Collect(ak, opts)
	if err != nil {
		return fail(exitIO, err)
	}
	for _, log := range []string{"event_log", "ima_log"} {
		if why := ev.Missing[log]; why != "" {
			fmt.Fprintf(cmd.ErrOrStderr(), "plumbline: evidence without %s: %s\n", log, why)
		}
	}
	data, err := ev.Encode()
	if err != nil {
		return fail(exitIO, err)
	}
	if format == "ndjson" {
		var line bytes.Buffer
		if err := json.Compact(&line, data); err != nil {
			return fail(exitIO, err)
		}
		data = append(line.Bytes(), '\n')
	}
	if out == "" {
		_, err = cmd.OutOrStdout().Write(data)
	} else {
		err = os.WriteFile(out, data, 0o644)
	}
	if err != nil {
		return fail(exitIO, err)
	}
	return nil
}
