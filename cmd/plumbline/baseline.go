package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/baseline/sign"
	"github.com/plumbline-sec/plumbline/filewatch"
)

func baselineCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "baseline",
		Short: "Keep and check what the files of a machine should be",
		Long: `A baseline is one signed file that says of every object on a machine's disks what
it is: its names, metadata and content digest. It is read from the disk, from
outside, while the machine runs or not.

The signing key is made on first use at ` + keyPlace + `,
its public half beside it with the suffix .pub. The newest version used of each
baseline is remembered under ` + statePlace + `,
so that an older one is refused.`,
		Example: `  plumbline baseline create --disk vm.img -f vm.baseline
  plumbline baseline check --disk vm.img -f vm.baseline`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(
		baselineAcceptCommand(),
		baselineCheckCommand(),
		baselineCreateCommand(),
		baselineDiffCommand(),
		baselineImportCommand(),
		baselineKeyCommand(),
		baselineShowCommand(),
		baselineVerifyCommand(),
	)
	return cmd
}

const (
	keyPlace   = "$XDG_CONFIG_HOME/plumbline/baseline.key (~/.config)"
	statePlace = "$XDG_STATE_HOME/plumbline/baselines (~/.local/state)"
)

// defaultKey is where the signing key is.
func defaultKey() string {
	dir, err := os.UserConfigDir()
	if err != nil { // no home: a service
		dir = "/etc"
	}
	return filepath.Join(dir, "plumbline", "baseline.key")
}

// ledger is the memory of versions used.
func ledger() baseline.Ledger {
	dir := os.Getenv("XDG_STATE_HOME")
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return baseline.Ledger{Dir: "/var/lib/plumbline/baselines"}
		}
		dir = filepath.Join(home, ".local", "state")
	}
	return baseline.Ledger{Dir: filepath.Join(dir, "plumbline", "baselines")}
}

// opened is a baseline with the file it is read from.
type opened struct {
	*baseline.Baseline
	file *os.File
}

func (o *opened) Close() {
	o.Verified() // the file is read until then
	o.file.Close()
}

// openBaseline verifies a baseline and that it is no older than one used before.
// machine may be nil.
func openBaseline(path string, k *keyFlags, machine *filewatch.Machine) (*opened, error) {
	b, err := openSigned(path, k, machine)
	if err != nil {
		return nil, err
	}
	if err := notOlder(&b.Header); err != nil {
		b.Close()
		return nil, baselineError(path, err)
	}
	return b, nil
}

// beginBaseline is openBaseline that leaves what [baseline.Begin] leaves, and taking
// down the version, to use.
func beginBaseline(path string, k *keyFlags) (*opened, error) {
	b, err := openWith(baseline.Begin, path, k, nil)
	if err != nil {
		return nil, err
	}
	least, err := ledger().Version(b.Header.Lineage)
	if err == nil {
		err = b.Header.CheckVersion(least)
	}
	if err != nil {
		b.Close()
		return nil, baselineError(path, err)
	}
	return b, nil
}

// use says that the baseline is what its signature says, so that what came of it may
// be told.
func (o *opened) use(path string) error {
	err := o.Verified()
	if err == nil {
		err = notOlder(&o.Header)
	}
	return baselineError(path, err)
}

// openSigned verifies a baseline, which may be an old one.
func openSigned(path string, k *keyFlags, machine *filewatch.Machine) (*opened, error) {
	return openWith(baseline.Open, path, k, machine)
}

func openWith(open func(io.ReaderAt, int64, *baseline.OpenOptions) (*baseline.Baseline, error), path string, k *keyFlags, machine *filewatch.Machine) (*opened, error) {
	keys, err := k.keys()
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fail(exitIO, err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fail(exitIO, err)
	}
	b, err := open(f, info.Size(), &baseline.OpenOptions{Trusted: keys, Machine: machine})
	if err != nil {
		f.Close()
		return nil, baselineError(path, err)
	}
	return &opened{b, f}, nil
}

// notOlder refuses a version below the newest that was used here.
func notOlder(h *baseline.Header) error {
	least, err := ledger().Version(h.Lineage)
	if err != nil {
		return err
	}
	if err := h.CheckVersion(least); err != nil {
		return err
	}
	return ledger().Raise(h.Lineage, h.Version)
}

// baselineError gives an error of a baseline its exit code and advice.
func baselineError(path string, err error) error {
	if err == nil {
		return nil
	}
	var exit *exitError
	if errors.As(err, &exit) {
		return err
	}
	if path != "" {
		err = fmt.Errorf("%s: %w", path, err)
	}
	switch {
	case errors.Is(err, sign.ErrUntrusted):
		return failHint(exitData, err, "trust another signer with --public-key FILE, if you know the key")
	case errors.Is(err, sign.ErrSignature):
		return failHint(exitData, err, "it was changed after it was signed; restore it from a copy")
	case errors.Is(err, baseline.ErrOtherMachine):
		return failHint(exitData, err, "check the machine it was made of, or create a baseline of this one")
	case errors.Is(err, baseline.ErrRollback):
		return failHint(exitData, err, "someone put an old baseline back; restore the newest one")
	case errors.Is(err, baseline.ErrDamaged):
		return fail(exitData, err)
	case errors.Is(err, filewatch.ErrRules):
		return fail(exitConfig, err)
	case errors.Is(err, baseline.ErrPartial):
		return failHint(exitIncomplete, err, "mend what keeps it from being read, or choose others with --path")
	case errors.Is(err, baseline.ErrNothingAccepted):
		return failHint(exitArgument, err, "run plumbline baseline check to see the changes")
	}
	return fail(exitIO, err)
}

// fileFlag is -f, which every command about one baseline has.
func fileFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVarP(to, "file", "f", "", "baseline `FILE`")
	cmd.MarkFlagFilename("file")
}

// baselineFile takes the baseline from -f or the only argument.
func baselineFile(flag string, args []string) (string, error) {
	if (flag == "") == (len(args) == 0) {
		return "", failHint(exitArgument, errors.New("which baseline?"), "name it once, as -f FILE")
	}
	if flag != "" {
		return flag, nil
	}
	return args[0], nil
}
