package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/remote/agent/vm"
)

// sinceFlags say that a scan builds on the last one.
type sinceFlags struct {
	incremental bool
	state       string
	fullEvery   int
	resume      bool
	template    string
}

const scansPlace = "$XDG_STATE_HOME/plumbline/scans (~/.local/state)"

func (f *sinceFlags) add(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.incremental, "incremental", false, "keep what the next check needs to look only at what changed")
	cmd.Flags().StringVar(&f.state, "state", "", "keep what --incremental and --resume need under `DIR`; default "+scansPlace)
	cmd.Flags().BoolVar(&f.resume, "resume", false, "keep what was read if this scan is interrupted, and go on from what an interrupted one kept")
	cmd.MarkFlagDirname("state")
}

func (f *sinceFlags) addCheck(cmd *cobra.Command) {
	f.add(cmd)
	cmd.Flag("incremental").Usage = "look only at what changed since the last scan where that is certain, else at everything"
	cmd.Flags().IntVar(&f.fullEvery, "full-every", 0, "with --incremental, look at everything every `N`th time")
	f.addTemplate(cmd, "the disk is a copy (qcow2) of the template `IMAGE`, which the baseline is of")
}

func (f *sinceFlags) addTemplate(cmd *cobra.Command, usage string) {
	cmd.Flags().StringVar(&f.template, "template", "", usage)
	cmd.MarkFlagFilename("template")
}

func (f *sinceFlags) given() bool { return f.incremental || f.resume || f.template != "" }

// valid refuses flags that make no sense together.
func (f *sinceFlags) valid(s *sourceFlags) error {
	switch {
	case !f.given() && f.state != "":
		return fail(exitArgument, errors.New("--state goes with --incremental or --resume"))
	case !f.incremental && f.fullEvery != 0:
		return fail(exitArgument, errors.New("--full-every goes with --incremental"))
	case f.fullEvery < 0:
		return fail(exitArgument, fmt.Errorf("--full-every %d: want a positive number", f.fullEvery))
	case f.given() && s.root != "":
		return failHint(exitArgument, errors.New("what changes in a mounted tree cannot be known"), "name the disk with --disk or the machine with --vm")
	case f.template != "" && len(s.disks) != 1:
		return fail(exitArgument, errors.New("--template goes with exactly one --disk"))
	}
	return nil
}

// dir is where the state of scans of a place against a baseline is.
func (f *sinceFlags) dir(p *vm.Place, file string) (string, error) {
	file, err := filepath.Abs(file)
	if err != nil {
		return "", fail(exitIO, err)
	}
	root := f.state
	if root == "" {
		root = filepath.Join(filepath.Dir(ledger().Dir), "scans")
	}
	return baseline.LastDir(root, file, p.String()), nil
}

func (s *sourceFlags) place() vm.Place {
	return vm.Place{Name: s.name, QMP: s.vm, Images: s.disks, Template: s.since.template, Backing: s.backing}
}

// checkSince compares as runBaselineCheck does, building on the last scan.
func checkSince(ctx context.Context, stderr io.Writer, flags *baselineCheckFlags, began time.Time, b *opened, rules *filewatch.Rules) (*baseline.Report, *vm.How, error) {
	place := flags.source.place()
	dir, err := flags.source.since.dir(&place, flags.file)
	if err != nil {
		return nil, nil, err
	}
	if rules == nil {
		if rules, err = b.Header.ParseRules(); err != nil {
			return nil, nil, baselineError(flags.file, err)
		}
	}
	options, stop, err := flags.source.captureOptions(stderr, rules)
	if err != nil {
		return nil, nil, err
	}
	since := vm.Since{Place: place, Dir: dir, Baseline: b.Baseline, Rules: rules, FullEvery: flags.source.since.fullEvery, Capture: *options,
		Once: !flags.source.since.incremental && place.Template == "", OnResume: sayOn(stderr)}
	if since.Resume, err = flags.source.since.key(); err != nil {
		return nil, nil, err
	}
	if flags.look != nil {
		since.Look = func(now *baseline.State) error { return flags.look(began, b, now) }
	}
	since.OnFull = func(reason string) {
		fmt.Fprintf(stderr, "plumbline: full scan: %s\n", printable(reason))
	}
	report, how, err := since.Check(ctx)
	stop()
	if err != nil {
		if errors.Is(err, baseline.ErrOtherMachine) {
			return nil, nil, baselineError(flags.file, err)
		}
		return nil, nil, scanError(err)
	}
	printHow(stderr, how)
	return report, how, nil
}

// printHow says on stderr what was looked at; that it is everything was said
// before.
func printHow(w io.Writer, how *vm.How) {
	if !how.Full {
		fmt.Fprintf(w, "plumbline: incremental scan since %s: %d objects looked at, %d bytes read; last full scan %s\n",
			how.Since.Format(time.RFC3339), how.Looked, how.Bytes, how.LastFull.Format(time.RFC3339))
	}
	for _, v := range how.Whole {
		fmt.Fprintf(w, "plumbline: full scan of volume %s: %s\n", printable(v.What), printable(v.Reason))
	}
	if how.NotKept != "" {
		fmt.Fprintf(w, "plumbline: the next scan will be full: %s\n", printable(how.NotKept))
	}
}

// openFor is open for the creation of a baseline in file, keeping what --incremental
// and --resume ask for.
func (s *sourceFlags) openFor(ctx context.Context, stderr io.Writer, file string, rules *filewatch.Rules) (*source, error) {
	if err := s.since.valid(s); err != nil {
		return nil, err
	}
	if s.since.template != "" && (s.since.incremental || s.since.resume) {
		return nil, failHint(exitArgument, errors.New("create --template goes without --incremental and --resume"),
			"a copy is checked against its template's baseline and state: check --template")
	}
	if !s.since.given() {
		return s.open(ctx, stderr)
	}
	place := s.place()
	dir, err := s.since.dir(&place, file)
	if err != nil {
		return nil, err
	}
	tracked := &vm.Tracked{Dir: dir, Place: place, Keep: s.since.incremental, Rules: rules, OnResume: sayOn(stderr)}
	if tracked.Resume, err = s.since.key(); err != nil {
		return nil, err
	}
	if err := tracked.Open(ctx); err != nil {
		return nil, sourceError(err)
	}
	return &source{release: tracked.Close, stderr: stderr, tracked: tracked}, nil
}

// done says that a baseline was written of the scan, and keeps the state of it
// where asked.
func (s *source) done(h *baseline.Header) {
	if s.tracked == nil {
		return
	}
	s.tracked.Done()
	if !s.tracked.Keep {
		return
	}
	if err := s.tracked.Store(h); err != nil {
		fmt.Fprintf(s.stderr, "plumbline: the next scan will be full: %v\n", err)
	}
}
