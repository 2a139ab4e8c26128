package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/baseline/sign"
	"github.com/plumbline-sec/plumbline/filewatch"
)

func baselineShowCommand() *cobra.Command {
	var key keyFlags
	var file string
	var output *string
	cmd := &cobra.Command{
		Use:   "show [-f] FILE",
		Short: "Print what is in a baseline",
		Example: `  plumbline baseline show vm.baseline
  plumbline baseline show vm.baseline -o ndjson | jq -r 'select(.mode | startswith("4")) | .path'`,
		Args: atMostOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			return withBaseline(file, args, &key, func(b *opened) error {
				return printBaseline(cmd.OutOrStdout(), b.Baseline, *output)
			})
		},
	}
	fileFlag(cmd, &file)
	output = outputFlag(cmd, "text", "json", "ndjson")
	key.verify(cmd)
	return cmd
}

func baselineVerifyCommand() *cobra.Command {
	var flags baselineCheckFlags
	cmd := &cobra.Command{
		Use:   "verify [-f] FILE [--disk IMAGE | --vm QMP_SOCKET | --root DIR]",
		Short: "Verify a baseline's signature, records and version",
		Long: `Verify reads the whole baseline: the signature by a trusted key, the digest of
every record, the order of the records, and that no newer version has been used
here. With a source it also says whether the baseline is of that machine.`,
		Example: `  plumbline baseline verify vm.baseline --public-key signer.pub`,
		Args:    atMostOne,
		RunE: func(cmd *cobra.Command, args []string) error {
			return withBaseline(flags.file, args, &flags.key, func(b *opened) error {
				if flags.source.given() {
					src, err := flags.source.open(cmd.Context(), cmd.ErrOrStderr())
					if err != nil {
						return err
					}
					defer src.close()
					if err := b.Header.CheckMachine(src.Machine()); err != nil {
						return err
					}
				}
				if err := b.Verify(); err != nil {
					return err
				}
				return printHeader(cmd.OutOrStdout(), b.Baseline, *flags.output)
			})
		},
	}
	flags.source.add(cmd)
	flags.key.verify(cmd)
	fileFlag(cmd, &flags.file)
	flags.output = outputFlag(cmd, "text", "json", "ndjson")
	return cmd
}

func baselineDiffCommand() *cobra.Command {
	var key keyFlags
	var output *string
	var format aideFlags
	cmd := &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "Compare two baselines",
		Long: `Diff compares two baselines of one machine under the newer one's rules. The exit
code is that of "check". Both may be older than the newest that was used here: what
they say is about themselves, not about a machine.`,
		Example: `  plumbline baseline diff monday.baseline tuesday.baseline`,
		Args:    arguments("OLD", "NEW"),
		RunE: func(cmd *cobra.Command, args []string) error {
			began := time.Now()
			if err := format.valid(cmd); err != nil {
				return err
			}
			old, err := openSigned(args[0], &key, nil)
			if err != nil {
				return err
			}
			defer old.Close()
			new, err := openSigned(args[1], &key, &old.Header.Machine)
			if err != nil {
				return err
			}
			defer new.Close()
			report, err := baseline.Diff(old.Baseline, new.Baseline)
			if err != nil {
				return baselineError("", err)
			}
			if format.aide() {
				return format.diff(cmd, args, began, old, new, report)
			}
			return printChanges(cmd.OutOrStdout(), report, *output)
		},
	}
	output = outputFlag(cmd, "text", "json", "ndjson")
	format.add(cmd)
	key.verify(cmd)
	return cmd
}

// withBaseline opens the baseline that -f or the argument names.
func withBaseline(flag string, args []string, key *keyFlags, use func(*opened) error) error {
	path, err := baselineFile(flag, args)
	if err != nil {
		return err
	}
	b, err := openBaseline(path, key, nil)
	if err != nil {
		return err
	}
	defer b.Close()
	if err := use(b); err != nil {
		return baselineError(path, err)
	}
	return nil
}

// printBaseline prints all records.
func printBaseline(w io.Writer, b *baseline.Baseline, format string) error {
	out := bufio.NewWriterSize(w, 64<<10)
	if err := printRecords(out, b, format); err != nil {
		return err
	}
	return out.Flush()
}

func printRecords(out *bufio.Writer, b *baseline.Baseline, format string) error {
	if format == "json" {
		header := b.Header
		header.Body.Blocks = nil
		text, err := json.Marshal(&header)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, `{"header":%s,"objects":[`, text)
	}
	first := true
	for r, err := range b.Records() {
		if err != nil {
			return err
		}
		if format == "text" {
			printRecord(out, r)
			continue
		}
		text, err := json.Marshal(r)
		if err != nil {
			return err
		}
		if format == "json" && !first {
			out.WriteByte(',')
		}
		first = false
		out.Write(text)
		if format == "ndjson" {
			out.WriteByte('\n')
		}
	}
	if format == "json" {
		out.WriteString("]}\n")
	}
	return nil
}

// printRecord prints a line like ls -l.
func printRecord(out io.Writer, r *baseline.Record) {
	arrow := ""
	if r.Link != "" {
		arrow = " -> " + filewatch.PrintablePath(r.Link)
	}
	modified := "-"
	if !r.Mtime.IsZero() {
		modified = r.Mtime.Format("2006-01-02T15:04:05Z")
	}
	digest := r.BLAKE3.String()
	if digest == "" {
		digest = "-"
	}
	fmt.Fprintf(out, "%-7s %04o %5d %5d %12d %s %.16s %s%s\n", r.Type, r.Mode, r.UID, r.GID, r.Size,
		modified, digest, filewatch.PrintablePath(r.Path()), arrow)
	if r.Unread != "" {
		fmt.Fprintf(out, "        not read whole: %s\n", printable(r.Unread))
	}
}

// historyLines is how many changes of a decision are printed.
const historyLines = 20

// printHeader prints what a verified baseline is.
func printHeader(w io.Writer, b *baseline.Baseline, format string) error {
	h := b.Header
	if format != "text" {
		h.Body.Blocks = nil
		return json.NewEncoder(w).Encode(&struct {
			*baseline.Header
			Signer string `json:"signer"`
		}{&h, sign.KeyID(b.Signer)})
	}
	fmt.Fprintf(w, "good signature by %s\n", sign.KeyID(b.Signer))
	fmt.Fprintf(w, "version %d, made %s by %s\n", h.Version, h.Created.Format("2006-01-02 15:04:05 UTC"), printable(h.Tool))
	fmt.Fprintf(w, "%d objects on volumes %q\n", h.Objects, h.Machine.Volumes)
	for _, a := range h.Accepted {
		fmt.Fprintf(w, "version %d: %s accepted by %s: %s\n", a.Version, counted(len(a.Changes), "change"), printable(a.Author), printable(a.Reason))
		fmt.Fprintf(w, "           %s, %s\n", a.Time.Format("2006-01-02 15:04:05 UTC"), printable(a.Selection))
		for i, change := range a.Changes {
			if i == historyLines {
				fmt.Fprintf(w, "           and %d more: -o json has them all\n", len(a.Changes)-i)
				break
			}
			fmt.Fprintf(w, "           %s\n", printable(change))
		}
	}
	return nil
}
