package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/disk"
	"github.com/plumbline-sec/plumbline/filewatch/trap"
	"github.com/plumbline-sec/plumbline/filewatch/trap/qemutcg"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/remote/agent/vm"
)

type watchFlags struct {
	qmp, rules, target, baseline string
	source, resets               string
	every                        time.Duration
	disks                        []string
	enforce                      bool
	key                          keyFlags
	output                       *string
}

// Where operations are seen.
const (
	sourceAuto = "auto"
	sourceTrap = "trap"
	sourceDisk = "disk"
)

func watchCommand() *cobra.Command {
	var f watchFlags
	cmd := &cobra.Command{
		Use:   "watch --vm QMP_SOCKET [--rules FILE] [-f BASELINE]",
		Short: "Report file operations of a virtual machine as they happen",
		Long: `Watch prints one JSON object a line, at once, for each operation that changes a
file of the virtual machine: an event (OCSF File System Activity), or, with the
key "alert", something about the watch itself: a gap in the sequence numbers, a
reset of the machine. A changed object of level verify or protect is read from
the disk once it is there, which gives a second event with the key "follows";
with a baseline both are judged by it.

Without an end there is no one object to print, so -o json is as -o ndjson; -o text
is a line for people.

Operations are seen where the guest's kernel carries them out, if the machine's QEMU
has the trap plugin (--source trap): each one, when it happens, with who did it. Or
they are told by looking at the disks again and again (--source disk), which QEMU
allows since 7.1, whatever runs the processor: what differs between two looks, without
who did it, and when the guest has written it back, half a minute later by Linux's
default.

It ends at an interrupt and takes away what it put into QEMU.`,
		Example: `  plumbline watch --vm /run/vm/qmp.sock --rules etc.toml
  plumbline watch --vm /run/vm/qmp.sock | jq -r '[.operation, .file.path, .actor.name] | @tsv'`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runWatch(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), &f)
		},
	}
	cmd.Flags().StringVar(&f.qmp, "vm", "", "monitor `SOCKET` of the virtual machine (QMP)")
	cmd.Flags().StringVar(&f.rules, "rules", "", "`FILE` of rules (TOML); default: those of the baseline, or everything")
	fileFlag(cmd, &f.baseline)
	f.key.verify(cmd)
	cmd.Flags().StringVar(&f.source, "source", sourceAuto, "`WHERE` to see operations: by the plugin (trap), on the disks (disk), or whichever there is (auto)")
	cmd.Flags().DurationVar(&f.every, "every", time.Second, "with --source disk, the `TIME` between looks; more after one that took long")
	cmd.Flags().StringVar(&f.resets, "resets", "", "with --source disk, another monitor `SOCKET` of the machine, kept as long as the watch lasts: resets of the guest are told then")
	cmd.Flags().StringArrayVar(&f.disks, "disk", nil, "with the plugin, the machine's disk `IMAGE`s, for content; default: those that QEMU has open")
	cmd.Flags().BoolVar(&f.enforce, "enforce", false, "refuse, in the guest, operations on paths of level protect")
	cmd.Flags().StringVar(&f.target, "target", "", "`NAME` of the machine in the events; default: the name of the socket's directory")
	f.output = outputFlag(cmd, "ndjson", "json", "text")
	cmd.RegisterFlagCompletionFunc("source", cobra.FixedCompletions([]string{sourceAuto, sourceTrap, sourceDisk}, cobra.ShellCompDirectiveNoFileComp))
	cmd.MarkFlagRequired("vm")
	cmd.MarkFlagFilename("rules", "toml")
	return cmd
}

func runWatch(ctx context.Context, stdout, stderr io.Writer, f *watchFlags) error {
	if err := f.valid(); err != nil {
		return err
	}
	rules, err := readRules(f.rules)
	if err != nil {
		return err
	}
	var index *baseline.Index
	if f.baseline != "" {
		b, err := openBaseline(f.baseline, &f.key, nil)
		if err != nil {
			return err
		}
		defer b.Close()
		if index, err = b.Index(); err != nil {
			return fail(exitData, err)
		}
		if rules == nil {
			if rules, err = b.Header.ParseRules(); err != nil {
				return fail(exitData, err)
			}
		}
	}
	if f.target == "" {
		f.target = targetName(f.qmp)
	}
	if !f.enforce && bytes.Contains(rules.Text(), []byte(`"protect"`)) {
		fmt.Fprintln(stderr, "plumbline: level protect is reported, not enforced")
		if f.source != sourceDisk {
			fmt.Fprintln(stderr, "hint: --enforce refuses such operations in the guest")
		}
	}
	if err := f.choose(ctx, stderr); err != nil {
		return err
	}
	out := &lineWriter{w: stdout, text: *f.output == "text"}
	alert := func(a filewatch.Alert) { out.print(a) }
	bound := func() { fmt.Fprintf(stderr, "plumbline: watching %s\n", f.target) }
	var source filewatch.Source
	if f.source == sourceDisk {
		source = &vm.DiskWatcher{Target: f.target, QMP: f.qmp, Dir: filepath.Join(filepath.Dir(ledger().Dir), "watch"), Rules: rules, Index: index,
			Resets: f.resets, Every: f.every, Alert: alert, Bound: bound}
	} else {
		source = &vm.Watcher{Target: f.target, QMP: f.qmp, Rules: rules, Images: f.disks, Enforce: f.enforce, Profiles: new(kernel.Cache), Index: index,
			Alert: alert, Bound: bound}
	}
	err = source.Events(ctx, func(e *filewatch.Event) error { return out.print(e) })
	if ctx.Err() != nil && (f.source != sourceDisk || errors.Is(err, ctx.Err())) {
		return nil // asked to end; what is left in QEMU would be an error
	}
	return watchError(err)
}

// valid refuses flags that make no sense together.
func (f *watchFlags) valid() error {
	switch {
	case f.source != sourceAuto && f.source != sourceTrap && f.source != sourceDisk:
		return fail(exitArgument, fmt.Errorf("--source %q: want trap, disk or auto", f.source))
	case f.source == sourceTrap && f.resets != "":
		return failHint(exitArgument, errors.New("--resets goes with --source disk: the plugin sees resets by itself"), "leave it out")
	case f.resets != "" && sameFile(f.resets, f.qmp):
		return failHint(exitArgument, errors.New("--resets is the socket of --vm, which a watch of the disks has to let go of"),
			"give QEMU another monitor for it: a second -qmp")
	case f.every < 10*time.Millisecond || f.every > time.Hour:
		return fail(exitArgument, fmt.Errorf("--every %v: want 10ms to 1h", f.every))
	case f.source == sourceDisk && f.enforce:
		return failHint(exitArgument, errors.New("--enforce goes with the trap plugin: when an operation is seen on the disk it is over, and cannot be refused"),
			"--source trap, with the plugin in QEMU")
	case f.source == sourceDisk && len(f.disks) > 0:
		return failHint(exitArgument, errors.New("--disk goes with --source trap: the disk path is watched in QEMU, all disks of it"), "leave it out")
	}
	return nil
}

// sameFile says that two paths lead to one file, or would if it were there.
func sameFile(a, b string) bool {
	infoA, errA := os.Stat(a)
	infoB, errB := os.Stat(b)
	if errA == nil && errB == nil {
		return os.SameFile(infoA, infoB)
	}
	absA, errA := filepath.Abs(a)
	absB, errB := filepath.Abs(b)
	return errA == nil && errB == nil && absA == absB
}

// choose settles what auto means: the plugin where QEMU has it, or where only the
// plugin can do what is asked.
func (f *watchFlags) choose(ctx context.Context, stderr io.Writer) error {
	if f.source != sourceAuto || f.enforce {
		return nil
	}
	_, err := qemutcg.FindControl(ctx, f.qmp)
	if !errors.Is(err, trap.ErrNoPlugin) {
		return nil // what else is wrong the watch will say
	}
	if len(f.disks) > 0 {
		return failHint(exitArgument, fmt.Errorf("--disk goes with the trap plugin: %w", err), "leave it out to watch the disk path")
	}
	f.source = sourceDisk
	fmt.Fprintln(stderr, "plumbline: QEMU runs without the trap plugin: operations are seen on the disks, when the guest has written them back, without who did them")
	return nil
}

// targetName is the directory a socket lies in: those who run several machines
// give each its own.
func targetName(socket string) string {
	abs, err := filepath.Abs(socket)
	if err != nil {
		return socket
	}
	return filepath.Base(filepath.Dir(abs))
}

func watchError(err error) error {
	switch {
	case errors.Is(err, trap.ErrNoPlugin):
		return failHint(exitUnimplemented, err,
			"start QEMU with -plugin "+qemutcg.PluginName+",control=/path/trap.sock (under TCG), or, without --enforce, use --source disk")
	case errors.Is(err, trap.ErrNotSupported), errors.Is(err, disk.ErrTooOld):
		return fail(exitUnimplemented, err)
	}
	return fail(exitIO, err)
}

// lineWriter prints one JSON object a line, or one line of text for it, each in
// one write.
type lineWriter struct {
	mu   sync.Mutex
	w    io.Writer
	text bool
}

func (l *lineWriter) print(v any) error {
	line, err := l.line(v)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err = l.w.Write(append(line, '\n'))
	return err
}

func (l *lineWriter) line(v any) ([]byte, error) {
	if l.text {
		switch v := v.(type) {
		case *filewatch.Event:
			return []byte(eventLine(v)), nil
		case filewatch.Alert:
			return []byte(alertLine(v)), nil
		}
	}
	return json.Marshal(v)
}
