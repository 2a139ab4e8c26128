package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/plumbline-sec/plumbline/attest/tpm"
	"github.com/plumbline-sec/plumbline/internal/durable"
	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/agent"
)

func agentCommand() *cobra.Command {
	var path string
	var checkOnly, verbose bool
	cmd := &cobra.Command{
		Use:   "agent --config FILE",
		Short: "Attest this machine, measure and watch its virtual machines, ship evidence",
		Long: `Agent runs on a host until it is told to stop. It enrols at the verifier with
the host's TPM, attests the host's boot, serves the BMC of each virtual machine
in its configuration, measures a machine when the verifier rings that BMC, and
reports file operations. Evidence waits on disk while the verifier is away.

It prints one JSON object on stdout when everything is served.`,
		Example: `  plumbline agent --config /etc/plumbline/agent.toml
  plumbline agent --config agent.toml --check`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			config, err := agent.LoadConfig(path)
			if err != nil {
				return agentError(err)
			}
			if checkOnly {
				return nil
			}
			return agentError(runAgent(cmd, config, verbose))
		},
	}
	cmd.Flags().StringVar(&path, "config", "", "configuration `FILE` (TOML)")
	cmd.Flags().BoolVar(&checkOnly, "check", false, "check the configuration and the files it names, and exit")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "log more")
	cmd.MarkFlagRequired("config")
	cmd.MarkFlagFilename("config", "toml")
	return cmd
}

func runAgent(cmd *cobra.Command, config *agent.Config, verbose bool) error {
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	a, err := agent.New(config, agent.Options{
		Log:     slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level})),
		Version: version(),
		Ready:   func(r agent.Ready) { printReady(cmd.OutOrStdout(), r) },
	})
	if err != nil {
		return err
	}
	defer a.Close()
	return a.Run(cmd.Context())
}

func printReady(w io.Writer, r agent.Ready) {
	line, err := json.Marshal(map[string]any{"ready": true, "bmc": r.BMC})
	if err == nil {
		fmt.Fprintf(w, "%s\n", line)
	}
}

// agentError gives an error of the agent its exit code and hint.
func agentError(err error) error {
	var known *remote.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, agent.ErrConfig):
		return fail(exitConfig, err)
	case errors.Is(err, tpm.ErrNoTPM):
		return failHint(exitIO, err, "name a TPM under [tpm] path in the configuration")
	case errors.Is(err, tpm.ErrAKChanged):
		return failHint(exitData, err, "if the TPM was cleared or replaced, remove ak.json and agent.crt from the state directory and start again: of another TPM an administrator is asked")
	case errors.Is(err, agent.ErrRefused):
		return failHint(exitIO, err, "an administrator decided so; start again to ask again")
	case errors.As(err, &known):
		return failHint(exitIO, err, known.Hint)
	case errors.Is(err, durable.ErrLocked):
		return failHint(exitIO, err, "an agent with this state directory is already running")
	case errors.Is(err, os.ErrNotExist), errors.Is(err, os.ErrPermission):
		return fail(exitIO, err)
	}
	return fail(exitIO, err)
}
