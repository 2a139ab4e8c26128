package main

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/plumbline-sec/plumbline/attest"
	"github.com/plumbline-sec/plumbline/attest/authenticode"
)

// bootDigest is an image's entry for a policy.
type bootDigest struct {
	Name   string     `json:"name"`
	Digest attest.Hex `json:"digest"`
}

// maxKernel bounds the kernel read out of a unified kernel image.
const maxKernel = 256 << 20

func attestDigestCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "digest FILE...",
		Short: "Give the digest by which firmware measures an image",
		Long: `Computes the Authenticode SHA-256 of EFI images: what the firmware extends into
PCR 4 when it starts them. Of a unified kernel image it gives that of the image
and that of the kernel inside, which the firmware measures on its own when the
image hands over to it. The text is the [[boot]] part of a policy, so that a
policy can be made where images are built, from the file and not from a machine.`,
		Example: `  plumbline attest digest /boot/efi/EFI/Linux/linux-6.1.efi >> policy.toml`,
		Args:    oneOrMore("FILE"),
	}
	format := outputFlag(cmd, "text", "json", "ndjson")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var all []bootDigest
		for _, path := range args {
			digests, err := imageDigests(path)
			switch {
			case errors.Is(err, authenticode.ErrFormat):
				return fail(exitArgument, err)
			case err != nil:
				return fail(exitIO, err)
			}
			all = append(all, digests...)
		}
		switch *format {
		case "json":
			return writeJSON(cmd.OutOrStdout(), all)
		case "ndjson":
			return writeLines(cmd.OutOrStdout(), all)
		}
		for _, d := range all {
			fmt.Fprintf(cmd.OutOrStdout(), "[[boot]]\nname = %q\ndigest = %q\n\n", d.Name, d.Digest.String())
		}
		return nil
	}
	return cmd
}

func imageDigests(path string) ([]bootDigest, error) {
	image, file, err := authenticode.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	digest, err := image.Digest(crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	name := filepath.Base(path)
	out := []bootDigest{{name, digest}}
	kernel, err := image.Content(".linux", maxKernel)
	if err != nil || kernel == nil {
		return out, err
	}
	inner, err := authenticode.New(bytes.NewReader(kernel), int64(len(kernel)))
	if err != nil {
		return nil, fmt.Errorf("read .linux of %s: %w", path, err)
	}
	if digest, err = inner.Digest(crypto.SHA256); err != nil {
		return nil, fmt.Errorf("read .linux of %s: %w", path, err)
	}
	return append(out, bootDigest{name + " (.linux)", digest}), nil
}
