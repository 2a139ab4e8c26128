package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"sync"

	"github.com/spf13/cobra"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/trap"
	"github.com/plumbline-sec/plumbline/filewatch/trap/qemutcg"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/remote/agent/vm"
)

type watchFlags struct {
	qmp, rules, target, baseline string
	disks                        []string
	enforce                      bool
	key                          keyFlags
	output                       *string
}

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

It needs the trap plugin in the machine's QEMU and ends at an interrupt, with the
hooks taken away again.`,
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
	cmd.Flags().StringArrayVar(&f.disks, "disk", nil, "the machine's disk `IMAGE`s, for content; default: those that QEMU has open")
	cmd.Flags().BoolVar(&f.enforce, "enforce", false, "refuse, in the guest, operations on paths of level protect")
	cmd.Flags().StringVar(&f.target, "target", "", "`NAME` of the machine in the events; default: the name of the socket's directory")
	f.output = outputFlag(cmd, "ndjson", "json", "text")
	cmd.MarkFlagRequired("vm")
	cmd.MarkFlagFilename("rules", "toml")
	return cmd
}

func runWatch(ctx context.Context, stdout, stderr io.Writer, f *watchFlags) error {
	rules, err := readRules(f.rules)
	if err != nil {
		return err
	}
	if f.target == "" {
		f.target = targetName(f.qmp)
	}
	out := &lineWriter{w: stdout, text: *f.output == "text"}
	w := &vm.Watcher{
		Target: f.target, QMP: f.qmp, Rules: rules, Images: f.disks, Enforce: f.enforce, Profiles: new(kernel.Cache),
		Alert: func(a trap.Alert) { out.print(a) },
		Bound: func() { fmt.Fprintf(stderr, "plumbline: watching %s\n", f.target) },
	}
	if f.baseline != "" {
		b, err := openBaseline(f.baseline, &f.key, nil)
		if err != nil {
			return err
		}
		defer b.Close()
		if w.Index, err = b.Index(); err != nil {
			return fail(exitData, err)
		}
		if rules == nil {
			if w.Rules, err = b.Header.ParseRules(); err != nil {
				return fail(exitData, err)
			}
		}
	}
	if !f.enforce && bytes.Contains(w.Rules.Text(), []byte(`"protect"`)) {
		fmt.Fprintln(stderr, "plumbline: level protect is reported, not enforced")
		fmt.Fprintln(stderr, "hint: --enforce refuses such operations in the guest")
	}
	err = w.Events(ctx, func(e *filewatch.Event) error { return out.print(e) })
	if ctx.Err() != nil {
		return nil // asked to end
	}
	return watchError(err)
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
			"start QEMU with -plugin "+qemutcg.PluginName+",control=/path/trap.sock (under TCG; KVM is not covered yet)")
	case errors.Is(err, trap.ErrNotSupported):
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
		case trap.Alert:
			return []byte(alertLine(v)), nil
		}
	}
	return json.Marshal(v)
}
