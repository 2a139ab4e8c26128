package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/internal/durable"
	"github.com/plumbline-sec/plumbline/remote/agent/vm"
)

type baselineCreateFlags struct {
	source      sourceFlags
	key         keyFlags
	file, rules string
	output      *string
	format      aideFlags
}

func baselineCreateCommand() *cobra.Command {
	var flags baselineCreateFlags
	cmd := &cobra.Command{
		Use:   "create -f FILE (--disk IMAGE | --vm QMP_SOCKET | --root DIR)",
		Short: "Make a signed baseline of a machine's files",
		Example: `  plumbline baseline create --disk vm.img -f vm.baseline
  plumbline baseline create --vm /run/vm/qmp.sock --rules server.toml -f vm.baseline`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := flags.format.valid(cmd); err != nil {
				return err
			}
			return runBaselineCreate(cmd.Context(), cmd.OutOrStdout(), cmd.ErrOrStderr(), &flags)
		},
	}
	flags.source.add(cmd)
	flags.source.since.add(cmd)
	flags.source.since.addTemplate(cmd, "the disk is an overlay (qcow2) over `IMAGE`, and both are read as one")
	flags.key.sign(cmd)
	fileFlag(cmd, &flags.file)
	flags.output = outputFlag(cmd, "text", "json", "ndjson")
	flags.format.add(cmd)
	cmd.Flags().StringVar(&flags.rules, "rules", "", "`FILE` of rules (TOML); without it every object with every attribute")
	cmd.MarkFlagRequired("file")
	cmd.MarkFlagsOneRequired("disk", "vm", "root")
	return cmd
}

func runBaselineCreate(ctx context.Context, stdout, stderr io.Writer, flags *baselineCreateFlags) error {
	began := time.Now()
	rules, err := readRules(flags.rules)
	if err != nil {
		return err
	}
	if err := replaceable(flags.file); err != nil {
		return err
	}
	key, release, err := flags.key.signer()
	if err != nil {
		return err
	}
	defer release()
	src, err := flags.source.openFor(ctx, stderr, flags.file, rules)
	if err != nil {
		return err
	}
	defer src.close()
	snap, err := flags.source.capture(ctx, stderr, src.capture(), nil, rules)
	if err != nil {
		return err
	}
	defer snap.Close()
	edition, err := newEdition(snap, flags.file)
	if err != nil {
		return err
	}
	var header *baseline.Header
	err = durable.Replace(flags.file, 0o644, func(w io.Writer) error {
		header, err = snap.Write(w, edition, key)
		return err
	})
	if err != nil {
		return failHint(exitIO, fmt.Errorf("write %s: %w", flags.file, err), "what was there before is unchanged")
	}
	if err := ledger().Raise(header.Lineage, header.Version); err != nil {
		return fail(exitIO, err)
	}
	src.done(header)
	if flags.format.aide() {
		err = flags.format.create(stdout, flags, began, snap)
	} else {
		err = printCreated(stdout, flags, header, src.resumed())
	}
	if err != nil {
		return fail(exitIO, err)
	}
	if header.Objects == 0 { // rules about what must not be there are of use all the same
		fmt.Fprintln(stderr, "plumbline: the rules select nothing that is there: only what is added will be noticed")
		fmt.Fprintln(stderr, "hint: an object that no rule matches is ignored; end with path = \"**\" to take the rest")
	}
	if !snap.Incomplete() {
		return nil
	}
	return incomplete(stderr, header, snap)
}

// replaceable refuses to overwrite what is not a baseline.
func replaceable(path string) error {
	if path == "-" {
		return failHint(exitArgument, errors.New("a baseline is not written to standard output"), "name a file with -f; ./- is one of that name")
	}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && !info.Mode().IsRegular() { // a device would be replaced by a file
		return failHint(exitArgument, fmt.Errorf("%s exists and is not a file", path), "choose another name with -f")
	}
	f, err := os.Open(path)
	if err != nil {
		return fail(exitIO, err)
	}
	defer f.Close()
	head := make([]byte, len(baseline.Magic))
	n, err := io.ReadFull(f, head)
	if n == 0 && errors.Is(err, io.EOF) || bytes.Equal(head, []byte(baseline.Magic)) {
		return nil
	}
	return failHint(exitArgument, fmt.Errorf("%s exists and is not a baseline", path), "choose another name with -f")
}

// writtenAt is now, or SOURCE_DATE_EPOCH (reproducible-builds.org), which makes what is
// written a function of its input.
func writtenAt() (time.Time, error) {
	epoch := os.Getenv("SOURCE_DATE_EPOCH")
	if epoch == "" {
		return time.Now(), nil
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil {
		return time.Time{}, fail(exitArgument, fmt.Errorf("SOURCE_DATE_EPOCH: %w", err))
	}
	return time.Unix(seconds, 0), nil
}

// newEdition is the next version of the baseline at path.
func newEdition(snap *baseline.Snapshot, path string) (*baseline.Edition, error) {
	place, err := filepath.Abs(path)
	if err != nil {
		return nil, fail(exitIO, err)
	}
	created, err := writtenAt()
	if err != nil {
		return nil, err
	}
	e := &baseline.Edition{Tool: "plumbline " + version(), Created: created, Lineage: baseline.LineageOf(snap.Machine, place)}
	used, err := ledger().Version(e.Lineage)
	if err != nil {
		return nil, fail(exitIO, err)
	}
	e.Version = used + 1
	return e, nil
}

func printCreated(w io.Writer, flags *baselineCreateFlags, h *baseline.Header, resumed *vm.Resumed) error {
	if *flags.output != "text" {
		short := *h
		short.Body.Blocks, short.Rules = nil, ""
		return json.NewEncoder(w).Encode(&struct {
			*baseline.Header
			Resumed *vm.Resumed `json:"resumed,omitempty"`
		}{&short, resumed})
	}
	_, err := fmt.Fprintf(w, "%s: %d objects, version %d, rules %s\n", flags.file, h.Objects, h.Version, rulesName(flags.rules))
	printResumed(w, resumed)
	return err
}

func rulesName(path string) string {
	if path == "" {
		return "none (everything)"
	}
	return path
}

// incomplete says on stderr what could not be read.
func incomplete(stderr io.Writer, h *baseline.Header, snap *baseline.Snapshot) error {
	for _, g := range h.Gaps {
		fmt.Fprintf(stderr, "plumbline: not measured: %s: %s\n", g.What, g.Reason)
	}
	if err := unread(stderr, h.Unread, snap); err != nil {
		return fail(exitIO, err)
	}
	return verdict(exitIncomplete)
}

// maxTold is how many of the objects that could not be read are named one by one.
const maxTold = 10

// unread names the first of the objects that could not be read whole.
func unread(stderr io.Writer, all uint64, snap *baseline.Snapshot) error {
	told := uint64(0)
	for r, err := range snap.State().Records {
		if told == min(all, maxTold) {
			break
		}
		if err != nil {
			return err
		}
		if r.Unread != "" {
			fmt.Fprintf(stderr, "plumbline: not measured: %s: %s\n", filewatch.EscapePath(r.Path()), r.Unread)
			told++
		}
	}
	if all > told {
		fmt.Fprintf(stderr, "plumbline: not measured: %d further objects could not be read whole; baseline show says why (key unread)\n", all-told)
	}
	return nil
}
