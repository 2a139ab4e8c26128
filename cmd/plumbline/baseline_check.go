package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/baseline/pkgdb"
	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/remote/agent/vm"
)

type baselineCheckFlags struct {
	source      sourceFlags
	key         keyFlags
	file, rules string
	output      *string
	packages    []string
	keyrings    []string
	diversions  string
	// look, if not nil, is given all that was found, with the baseline, while it can
	// be read; after an error perhaps once more.
	look func(began time.Time, base *opened, now *baseline.State) error
}

func baselineCheckCommand() *cobra.Command {
	var flags baselineCheckFlags
	var format aideFlags
	cmd := &cobra.Command{
		Use:   "check -f FILE (--disk IMAGE | --vm QMP_SOCKET | --root DIR)",
		Short: "Compare a machine's files with its baseline",
		Long: `Check reads the files as "create" does and reports every object that differs.
An object is known by volume, inode and generation, so a renamed one is one
change.

With --package, a change that is exactly what a package contains is explained by
it and does not count. With --keyring only signed packages count: an .rpm by the
signature in it, a .deb by the repository's InRelease file among those named.
Without, all count on your word; never name any from the machine that is checked.

The exit code is the sum of 1 (objects added), 2 (removed) and 4 (changed) over
the changes at level verify or protect; 40 when there is none of them but
something could not be compared; 14 and up for errors.`,
		Example: `  plumbline baseline check --disk vm.img -f vm.baseline
  plumbline baseline check --vm /run/vm/qmp.sock -f vm.baseline -o ndjson | jq .path
  plumbline baseline check --disk vm.img -f vm.baseline --package repository --keyring archive-keyring.gpg
  plumbline baseline check --disk vm.img -f vm.baseline --format aide | mail -s "AIDE report" root`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := format.valid(cmd); err != nil {
				return err
			}
			if err := flags.source.since.valid(&flags.source); err != nil {
				return err
			}
			report := aideCheck{aideFlags: &format, flags: &flags}
			if format.aide() {
				flags.look = report.look
			}
			return runBaselineCheck(cmd.Context(), cmd.ErrOrStderr(), &flags, func(c *checked) error {
				if c.how != nil && (*flags.output == "ndjson" || format.aide()) {
					printResumed(cmd.ErrOrStderr(), c.how.Resumed)
				}
				if format.aide() {
					return report.print(cmd, c)
				}
				return printSince(cmd.OutOrStdout(), c.report, c.how, *flags.output)
			})
		},
	}
	flags.add(cmd)
	flags.source.since.addCheck(cmd)
	flags.output = outputFlag(cmd, "text", "json", "ndjson")
	format.add(cmd)
	return cmd
}

// add adds what check and accept have in common.
func (flags *baselineCheckFlags) add(cmd *cobra.Command) {
	flags.source.add(cmd)
	flags.key.sign(cmd)
	flags.key.verify(cmd)
	fileFlag(cmd, &flags.file)
	cmd.Flags().StringVar(&flags.rules, "rules", "", "`FILE` of rules (TOML); default: those in the baseline")
	cmd.Flags().StringArrayVar(&flags.packages, "package", nil, "explain changes by this .deb or .rpm `FILE`, or by all in a directory, such as a repository")
	cmd.Flags().StringArrayVar(&flags.keyrings, "keyring", nil, "use only packages signed by an OpenPGP key in `FILE`; default: all of --package, on your word")
	cmd.Flags().StringVar(&flags.diversions, "diversions", "", "with --package, packages' files may be where `FILE` diverts them to, on your word; in the form of /var/lib/dpkg/diversions")
	cmd.MarkFlagFilename("keyring")
	cmd.MarkFlagFilename("diversions")
	cmd.MarkFlagRequired("file")
	cmd.MarkFlagsOneRequired("disk", "vm", "root")
}

// checked is a finished comparison; valid until its use returns.
type checked struct {
	report *baseline.Report
	base   *opened
	how    *vm.How // nil without --incremental
}

// runBaselineCheck compares and hands the result to use.
func runBaselineCheck(ctx context.Context, stderr io.Writer, flags *baselineCheckFlags, use func(*checked) error) error {
	began := time.Now()
	rules, err := readRules(flags.rules)
	if err != nil {
		return err
	}
	packages, err := flags.openPackages(stderr)
	if err != nil {
		return err
	}
	if flags.source.since.given() {
		return runCheckSince(ctx, stderr, flags, began, rules, packages, use)
	}
	b, err := openBaseline(flags.file, &flags.key, nil)
	if err != nil {
		return err
	}
	defer b.Close()
	var owners pkgdb.Owners
	snap, err := captureNow(ctx, stderr, flags, b, rules, &owners)
	if err != nil {
		return err
	}
	defer snap.Close()
	report, err := baseline.Compare(b.Baseline, snap)
	if err != nil {
		return baselineError(flags.file, err)
	}
	if packages != nil {
		if err := owners.Divert(packages, b.Records()); err != nil {
			return baselineError(flags.file, err)
		}
		packages.Explain(report.Changes, time.Now())
	}
	owners.Hint(report.Changes)
	if flags.look != nil {
		if err := flags.look(began, b, snap.State()); err != nil {
			return baselineError(flags.file, err)
		}
	}
	return use(&checked{report: report, base: b})
}

// runCheckSince is runBaselineCheck for a scan that builds on the last one. What it
// finds is told once the baseline's records are verified, which happens meanwhile.
func runCheckSince(ctx context.Context, stderr io.Writer, flags *baselineCheckFlags, began time.Time, rules *filewatch.Rules, packages *pkgdb.Packages, use func(*checked) error) error {
	b, err := beginBaseline(flags.file, &flags.key)
	if err != nil {
		return err
	}
	defer b.Close()
	report, how, scanErr := checkSince(ctx, stderr, flags, began, b, rules)
	if err := b.use(flags.file); err != nil {
		return err
	}
	if scanErr != nil {
		return scanErr
	}
	if packages != nil {
		kept, err := pkgdb.KeptDiversions(b.Records())
		if err != nil {
			return baselineError(flags.file, err)
		}
		if kept != nil {
			packages.Divert(kept, pkgdb.BaselinesWord)
		}
		packages.Explain(report.Changes, time.Now())
	}
	return use(&checked{report: report, base: b, how: how})
}

// openPackages reads what --package names; nil without it.
func (flags *baselineCheckFlags) openPackages(stderr io.Writer) (*pkgdb.Packages, error) {
	switch {
	case flags.packages == nil && flags.diversions != "":
		return nil, fail(exitArgument, errors.New("--diversions goes with --package"))
	case flags.packages == nil:
		return nil, nil
	}
	var ring *pkgdb.Keyring
	if flags.keyrings != nil {
		var err error
		if ring, err = pkgdb.OpenKeyring(flags.keyrings...); err != nil {
			return nil, fail(exitConfig, err)
		}
	}
	packages, err := pkgdb.Open(ring, flags.packages...)
	if errors.Is(err, pkgdb.ErrUnsigned) {
		return nil, fail(exitData, err)
	}
	if err != nil {
		return nil, fail(exitIO, err)
	}
	if flags.diversions != "" {
		d, err := pkgdb.OpenDiversions(flags.diversions)
		if err != nil {
			return nil, fail(exitIO, err)
		}
		packages.Divert(d, pkgdb.OperatorsWord)
	}
	for _, unused := range packages.Unused {
		fmt.Fprintf(stderr, "plumbline: package not used: %v\n", unused)
	}
	return packages, nil
}

// captureNow reads the machine under the given rules or, without, under those of
// the baseline.
func captureNow(ctx context.Context, stderr io.Writer, flags *baselineCheckFlags, b *opened, rules *filewatch.Rules, owners *pkgdb.Owners) (*baseline.Snapshot, error) {
	src, err := flags.source.open(ctx, stderr)
	if err != nil {
		return nil, err
	}
	defer src.close()
	if err := b.Header.CheckMachine(src.Machine()); err != nil {
		return nil, baselineError(flags.file, err)
	}
	if rules == nil {
		if rules, err = b.Header.ParseRules(); err != nil {
			return nil, baselineError(flags.file, err)
		}
	}
	return flags.source.capture(ctx, stderr, captureOf(owners.Watch(src)), b.Baseline, rules)
}
