package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/disk"
	"github.com/plumbline-sec/plumbline/filewatch/guest"
	"github.com/plumbline-sec/plumbline/filewatch/tree"
	"github.com/plumbline-sec/plumbline/internal/qmp"
	"github.com/plumbline-sec/plumbline/remote/agent/vm"
)

// sourceFlags say where files are read from.
type sourceFlags struct {
	disks    []string
	backing  []string
	vm, root string
	name     string
	progress string
	limit    string
	idle     bool
	since    sinceFlags
}

func (s *sourceFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringArrayVar(&s.disks, "disk", nil, "disk `IMAGE` or block device; several make one machine")
	f.StringArrayVar(&s.backing, "backing", nil, "a disk may be an overlay (qcow2): read it over the images that it and they name, where these are in `DIR`")
	f.StringVar(&s.vm, "vm", "", "the disks of the running machine behind QEMU's QMP `SOCKET`")
	f.StringVar(&s.root, "root", "", "mounted tree at `DIR`")
	f.StringVar(&s.name, "target", "", "`NAME` of the machine, kept in the baseline")
	f.StringVar(&s.limit, "limit", "", "read contents at no more than `RATE` bytes a second, like 50M")
	f.BoolVar(&s.idle, "idle", false, "read the disk only while nobody else wants it (I/O priority; with the schedulers bfq and mq-deadline)")
	progressFlag(cmd, &s.progress)
	cmd.MarkFlagsMutuallyExclusive("disk", "vm", "root")
	cmd.MarkFlagsMutuallyExclusive("backing", "vm")
	cmd.MarkFlagsMutuallyExclusive("backing", "root")
	cmd.MarkFlagDirname("backing")
	cmd.MarkFlagFilename("disk")
	cmd.MarkFlagDirname("root")
}

func (s *sourceFlags) given() bool { return len(s.disks) > 0 || s.vm != "" || s.root != "" }

var errNoSource = errors.New("which files? name one of --disk IMAGE, --vm QMP_SOCKET or --root DIR")

// source is an open source and what closes it.
type source struct {
	baseline.Source
	release func() error
	stderr  io.Writer
	tracked *vm.Tracked // nil unless something is kept of the scan
}

// close releases the source. What that leaves behind does not change the
// result, but someone should know.
func (s *source) close() {
	switch err := s.release(); {
	case errors.Is(err, vm.ErrInterrupted):
		fmt.Fprintf(s.stderr, "plumbline: %v: the same command goes on from there\n", vm.ErrInterrupted)
	case err != nil:
		fmt.Fprintf(s.stderr, "plumbline: close source: %v\n", err)
	}
}

func (s *sourceFlags) open(ctx context.Context, stderr io.Writer) (*source, error) {
	switch {
	case s.root != "":
		t, err := tree.Open(s.root)
		if err != nil {
			return nil, fail(exitIO, err)
		}
		return s.named(t, t.Close, stderr), nil
	case s.given():
		place := s.place()
		files, err := vm.OpenFiles(ctx, &place)
		if err != nil {
			return nil, sourceError(err)
		}
		return s.named(files, files.Close, stderr), nil
	}
	return nil, fail(exitArgument, errNoSource)
}

// sourceError gives an error of disks its exit code and advice.
func sourceError(err error) error {
	switch {
	case errors.Is(err, guest.ErrNoFileSystem):
		return failHint(exitIO, err, "ext2, ext3, ext4, XFS and FAT are read, alone or in partitions")
	case errors.Is(err, disk.ErrOverlay):
		return failHint(exitIO, err, "--backing DIR reads it over the images it names that are in DIR; create and check --template IMAGE over the template that you name; --vm as its running machine does")
	case errors.Is(err, disk.ErrChain):
		return failHint(exitIO, err, "qemu-img info --backing-chain shows the chain, rebase -u mends names and formats in it, convert makes one image of it; --backing DIR says where its images may be")
	case errors.Is(err, disk.ErrAmbiguous):
		return failHint(exitIO, err, "--vm reads it as its running machine does; qemu-img convert -f FORMAT -O raw makes an image of what you know it to be")
	case errors.Is(err, qmp.ErrBusy):
		return failHint(exitIO, err, monitorHint)
	case errors.Is(err, disk.ErrInUse):
		return failHint(exitIO, err, "a backup, a copy or a merge of its snapshots runs; try again when that is done")
	case errors.Is(err, disk.ErrTwice):
		return fail(exitArgument, err)
	}
	return fail(exitIO, err)
}

func (s *sourceFlags) named(src baseline.Source, close func() error, stderr io.Writer) *source {
	return &source{Source: namedSource{src, s.name}, release: close, stderr: stderr}
}

// namedSource gives a machine the name from the command line.
type namedSource struct {
	baseline.Source
	name string
}

func (n namedSource) Machine() filewatch.Machine {
	m := n.Source.Machine()
	m.Name = n.name
	return m
}

// captureFunc reads a source.
type captureFunc func(context.Context, *baseline.CaptureOptions) (*baseline.Snapshot, error)

// captureOf is the plain one.
func captureOf(src baseline.Source) captureFunc {
	return func(ctx context.Context, o *baseline.CaptureOptions) (*baseline.Snapshot, error) {
		return baseline.Capture(ctx, src, o)
	}
}

// capture reads the source.
func (s *source) capture() captureFunc {
	if s.tracked != nil {
		return s.tracked.Capture
	}
	return captureOf(s)
}

// capture reads a source with a progress line on stderr.
func (s *sourceFlags) capture(ctx context.Context, stderr io.Writer, take captureFunc, b *baseline.Baseline, rules *filewatch.Rules) (*baseline.Snapshot, error) {
	o, stop, err := s.captureOptions(stderr, rules)
	if err != nil {
		return nil, err
	}
	defer stop()
	if b != nil {
		if err := o.Follow(b); err != nil {
			return nil, baselineError("", err)
		}
	}
	snap, err := take(ctx, o)
	if err != nil {
		return nil, baselineError("", err)
	}
	return snap, nil
}

// captureOptions are those of the flags; the caller calls stop in the end.
func (s *sourceFlags) captureOptions(stderr io.Writer, rules *filewatch.Rules) (o *baseline.CaptureOptions, stop func(), err error) {
	tuneGC()
	if s.idle {
		if err := readWhenIdle(); err != nil {
			return nil, nil, fail(exitIO, err)
		}
	}
	limit, err := parseLimit(s.limit)
	if err != nil {
		return nil, nil, err
	}
	read := new(reading)
	p, err := newProgress(stderr, s.progress, read.words)
	if err != nil {
		return nil, nil, err
	}
	o = &baseline.CaptureOptions{Rules: rules}
	if p.drawing {
		o.Progress = read.add
	}
	if limit != nil {
		o.Limit = limit.wait
	}
	return o, p.stop, nil
}
