package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/plumbline-sec/plumbline/internal/bin"
	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/verifier"
)

// askFlags say which verifier a command asks. On the verifier's own machine
// none of them is needed.
type askFlags struct {
	state, address, ca, tokenFile string
	output                        *string
}

func (a *askFlags) register(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&a.state, "state", "", "the verifier's state `DIR`, on its own machine")
	f.StringVar(&a.address, "verifier", os.Getenv("PLUMBLINE_VERIFIER"), "`URL` of the verifier, https://HOST:PORT (default $PLUMBLINE_VERIFIER)")
	f.StringVar(&a.ca, "ca", os.Getenv("PLUMBLINE_CA"), "`FILE` with the verifier's authority (default $PLUMBLINE_CA)")
	f.StringVar(&a.tokenFile, "token-file", os.Getenv("PLUMBLINE_TOKEN_FILE"), "`FILE` with the token (default $PLUMBLINE_TOKEN_FILE)")
	a.output = outputFlag(cmd, "text", "json", "ndjson")
}

// client finds the verifier and what it takes to talk to it.
func (a *askFlags) client() (*remote.Client, error) {
	serving := verifier.Serving{Address: a.address, CA: a.ca, Token: a.tokenFile}
	if a.address == "" || a.ca == "" || a.tokenFile == "" {
		known, err := a.known()
		if err != nil {
			return nil, err
		}
		serving.Address = cmp.Or(a.address, known.Address)
		serving.CA = cmp.Or(a.ca, known.CA)
		serving.Token = cmp.Or(a.tokenFile, known.Token)
	}
	ca, err := bin.ReadFile(serving.CA, maxText)
	if err != nil {
		return nil, fail(exitIO, fmt.Errorf("read the verifier's authority: %w", err))
	}
	token, err := bin.ReadFile(serving.Token, maxText)
	if err != nil {
		return nil, fail(exitIO, fmt.Errorf("read token: %w", err))
	}
	client, err := remote.NewClient(remote.ClientOptions{Address: serving.Address, Trust: remote.Trust{CA: ca}, Token: strings.TrimSpace(string(token))})
	if err != nil {
		return nil, fail(exitArgument, err)
	}
	return client, nil
}

// known reads what a verifier of this machine left for its clients.
func (a *askFlags) known() (*verifier.Serving, error) {
	dir, err := stateDir(a.state)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(filepath.Join(dir, verifier.ClientFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, failHint(exitIO, fmt.Errorf("no verifier has run with the state directory %s", dir),
			"start plumbline verifier, or name one with --verifier, --ca and --token-file")
	}
	if err != nil {
		return nil, fail(exitIO, err)
	}
	var known verifier.Serving
	if err := json.Unmarshal(data, &known); err != nil {
		return nil, fail(exitData, fmt.Errorf("read %s: %w", verifier.ClientFile, err))
	}
	return &known, nil
}

// askError gives an error of the API its exit code and hint.
func askError(err error) error {
	var exit *exitError
	var known *remote.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exit):
		return err
	case errors.Is(err, context.Canceled):
		return fail(exitIO, errInterrupted)
	case errors.As(err, &known):
		code := exitIO
		if known.Status >= 400 && known.Status < 500 && known.Status != 401 && known.Status != 429 {
			code = exitArgument
		}
		return failHint(code, known, known.Hint)
	}
	return failHint(exitIO, err, "is the verifier running?")
}

// printAll prints values as one JSON array or one object a line; text is for
// the caller.
func printAll[T any](cmd *cobra.Command, format string, values []T, text func() error) error {
	enc := json.NewEncoder(cmd.OutOrStdout())
	switch format {
	case "json":
		enc.SetIndent("", "  ")
		if values == nil {
			values = []T{}
		}
		return enc.Encode(values)
	case "ndjson":
		for _, v := range values {
			if err := enc.Encode(v); err != nil {
				return err
			}
		}
		return nil
	}
	return text()
}
