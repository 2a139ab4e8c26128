package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/bmc"
	"github.com/plumbline-sec/plumbline/remote/store"
	"github.com/plumbline-sec/plumbline/remote/store/sqlite"
	"github.com/plumbline-sec/plumbline/remote/verifier"
)

// verifierFlags are the flags of "verifier".
type verifierFlags struct {
	config, state, listen string
	check, verbose        bool
}

func verifierCommand() *cobra.Command {
	var flags verifierFlags
	cmd := &cobra.Command{
		Use:   "verifier [--config FILE]",
		Short: "Enrol hosts, fire scans, judge evidence, serve the console",
		Long: `Verifier runs until it is told to stop. Without a configuration it is a
complete verifier for this machine, on 127.0.0.1:8443: on its first start it
makes its state directory with an authority, a database, a password for the
console (printed once) and a token for this user's command line.

It prints one JSON object on stdout when it answers requests.

Exit codes: 15 an argument is wrong, 17 the configuration cannot be used, 18 the
state directory or the address cannot be used, 19 the database is of a newer
version.`,
		Example: `  plumbline verifier
  plumbline verifier --config /etc/plumbline/verifier.toml
  plumbline verifier --config verifier.toml --check`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return verifierError(runVerifier(cmd, &flags))
		},
	}
	f := cmd.Flags()
	f.StringVar(&flags.config, "config", "", "configuration `FILE` (TOML)")
	f.StringVar(&flags.state, "state", "", "state `DIR` (default $PLUMBLINE_STATE, or plumbline in the user's state directory)")
	f.StringVar(&flags.listen, "listen", "", "`ADDRESS` to listen on (default 127.0.0.1:8443; port 0 takes a free one)")
	f.BoolVar(&flags.check, "check", false, "check the configuration and exit")
	f.BoolVarP(&flags.verbose, "verbose", "v", false, "log more")
	cmd.MarkFlagFilename("config", "toml")
	cmd.MarkFlagDirname("state")
	return cmd
}

func runVerifier(cmd *cobra.Command, flags *verifierFlags) error {
	config := &verifier.Config{}
	if flags.config != "" {
		var err error
		if config, err = verifier.LoadConfig(flags.config); err != nil {
			return err
		}
	}
	if flags.check {
		return verifier.CheckConfig(config)
	}
	config.Listen = cmp.Or(flags.listen, config.Listen)
	state, err := stateDir(cmp.Or(flags.state, config.State))
	if err != nil {
		return err
	}
	unlock, err := verifier.PrepareState(state)
	if err != nil {
		return err
	}
	defer unlock()
	database, err := sqlite.Open(filepath.Join(state, "verifier.db"))
	if err != nil {
		return err
	}
	defer database.Close()
	level := slog.LevelInfo
	if flags.verbose {
		level = slog.LevelDebug
	}
	v, err := verifier.New(verifier.Options{
		Config: config, Store: database, State: state, Trigger: triggerBMC,
		Log: slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level})),
	})
	if err != nil {
		return err
	}
	return v.Serve(cmd.Context(), func(s verifier.Serving) { announce(cmd.OutOrStdout(), cmd.ErrOrStderr(), s) })
}

// announce says where the verifier is, for people and for scripts.
func announce(stdout, stderr io.Writer, s verifier.Serving) {
	fmt.Fprintf(stderr, "plumbline: console at %s/ for user %s\n", s.Address, verifier.User)
	fmt.Fprintf(stderr, "plumbline: authority %s, SHA-256 %s\n", s.CA, s.Fingerprint)
	if s.FirstPassword != "" {
		fmt.Fprintf(stderr, "plumbline: password %s (made now, also in %s)\n", s.FirstPassword, s.Password)
		fmt.Fprintf(stderr, "hint: keep the password and remove that file\n")
	}
	line, err := json.Marshal(struct {
		Ready   bool   `json:"ready"`
		Console string `json:"console"`
		verifier.Serving
	}{true, s.Address + "/", s})
	if err == nil {
		fmt.Fprintf(stdout, "%s\n", line)
	}
}

// triggerBMC carries a nonce to a BMC over IPMI.
func triggerBMC(ctx context.Context, b verifier.BMC, password string, nonce remote.Nonce) error {
	target := bmc.Target{Address: b.Address, Username: b.Username, Password: password}
	if b.Record {
		return bmc.LeaveRecord(ctx, target, nonce)
	}
	return bmc.Trigger(ctx, target, nonce)
}

// stateDir is the verifier's directory: the one given, $PLUMBLINE_STATE, or
// plumbline in the user's state directory (XDG Base Directory Specification).
func stateDir(given string) (string, error) {
	if dir := cmp.Or(given, os.Getenv("PLUMBLINE_STATE")); dir != "" {
		return dir, nil
	}
	if dir := os.Getenv("XDG_STATE_HOME"); dir != "" {
		return filepath.Join(dir, "plumbline"), nil
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", failHint(exitArgument, err, "name a directory with --state or $PLUMBLINE_STATE")
	}
	return filepath.Join(home, ".local", "state", "plumbline"), nil
}

// verifierError gives an error of the verifier its exit code and hint.
func verifierError(err error) error {
	var exit *exitError
	var listen *net.OpError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exit):
		return err
	case errors.Is(err, verifier.ErrConfig):
		return fail(exitConfig, err)
	case errors.Is(err, store.ErrVersion):
		return failHint(exitVersion, err, "use the plumbline that wrote it, or a newer one")
	case errors.Is(err, verifier.ErrLocked):
		return failHint(exitIO, err, "another verifier uses this state directory; give this one its own with --state")
	case errors.Is(err, syscall.EADDRINUSE):
		return failHint(exitIO, err, "choose another address with --listen")
	case errors.As(err, &listen):
		return failHint(exitIO, err, "check --listen")
	case errors.Is(err, fs.ErrPermission):
		return failHint(exitIO, err, "the state directory must belong to the user who runs the verifier")
	}
	return fail(exitIO, err)
}
