package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/remote/agent/vm"
)

// wireChanges is a whole report in JSON.
type wireChanges struct {
	Target      filewatch.Machine  `json:"target"`
	Outcome     string             `json:"outcome"`
	Version     uint64             `json:"baseline_version"`
	Objects     uint64             `json:"objects"`
	Added       int                `json:"added"`
	Removed     int                `json:"removed"`
	Changed     int                `json:"changed"`
	NotMeasured int                `json:"not_measured"`
	Scan        *vm.How            `json:"scan,omitempty"` // how, with --incremental
	Changes     []*baseline.Change `json:"changes"`
}

// printChanges prints a report and gives its exit code.
func printChanges(w io.Writer, r *baseline.Report, format string) error {
	return printSince(w, r, nil, format)
}

// printSince is printChanges for a scan that may have built on the last one.
func printSince(w io.Writer, r *baseline.Report, how *vm.How, format string) error {
	out := bufio.NewWriterSize(w, 64<<10)
	var err error
	switch format {
	case "json":
		err = json.NewEncoder(out).Encode(&wireChanges{r.Machine, r.Outcome(), r.Baseline.Version, r.Objects,
			r.Count(baseline.Added), r.Count(baseline.Removed), r.Count(baseline.Changed), r.Count(baseline.Unmeasured), how, notNil(r.Changes)})
	case "ndjson":
		encoder := json.NewEncoder(out)
		for _, c := range r.Changes {
			if err == nil {
				err = encoder.Encode(c)
			}
		}
	default:
		printChangesText(out, r)
		if how != nil {
			printResumed(out, how.Resumed)
		}
	}
	if err == nil {
		err = out.Flush()
	}
	if err != nil {
		return fail(exitIO, err)
	}
	if code := r.Mask(); code != 0 {
		return verdict(code)
	}
	if r.Outcome() == "incomplete" {
		return verdict(exitIncomplete)
	}
	return nil
}

// notNil makes an empty list [] and not null.
func notNil(changes []*baseline.Change) []*baseline.Change {
	if changes == nil {
		return []*baseline.Change{}
	}
	return changes
}

func printChangesText(w io.Writer, r *baseline.Report) {
	for _, c := range r.Changes {
		fmt.Fprintf(w, "%-12s %s  [%s]\n", c.Kind, filewatch.PrintablePath(c.Path), c.Level)
		for _, d := range c.Attributes {
			fmt.Fprintf(w, "             %-10s %s -> %s\n", d.Name, show(d.Old), show(d.New))
		}
		fmt.Fprintf(w, "             %s\n", printable(c.Explanation))
		if c.Explained != "" {
			fmt.Fprintf(w, "             does not count, by %s\n", printable(c.Explained))
		}
		printDiff(w, c)
	}
	printLegend(w, r.Changes)
	fmt.Fprintf(w, "%s: %d objects compared with version %d: %d added, %d removed, %d changed, %d not measured\n",
		r.Outcome(), r.Objects, r.Baseline.Version, r.Count(baseline.Added), r.Count(baseline.Removed),
		r.Count(baseline.Changed), r.Count(baseline.Unmeasured))
}

// legend says what the names of attributes mean that do not say it themselves.
var legend = []struct{ name, words string }{
	{"blake3", "digest of the content"}, {"sha256", "digest of the content"}, {"nlink", "number of hard links"},
	{"mtime", "when the content was last written"}, {"ctime", "when the inode was last changed"}, {"rdev", "device number, major:minor"},
	{"generation", "which use of the inode number this is"}, {"flags", "as lsattr shows them"},
	{"xattrs", "extended attributes, ACLs and capabilities among them, in base64"}, {"growing", "the old content, of a file that may only grow"},
}

// printLegend explains the attributes that the report has.
func printLegend(w io.Writer, changes []*baseline.Change) {
	for _, entry := range legend {
		if slices.ContainsFunc(changes, func(c *baseline.Change) bool { return c.Attributes.Has(entry.name) }) {
			fmt.Fprintf(w, "legend: %-10s %s\n", entry.name, entry.words)
		}
	}
}

// printDiff shows a change of text, or says why it does not. Lines come from the
// guest: what could move the cursor is escaped.
func printDiff(w io.Writer, c *baseline.Change) {
	for line := range strings.Lines(c.Diff) {
		line = strings.TrimSuffix(line, "\n")
		for i, part := range strings.Split(line, "\t") {
			if i > 0 {
				fmt.Fprint(w, "\t")
			} else {
				fmt.Fprint(w, "             ")
			}
			fmt.Fprint(w, printable(part))
		}
		fmt.Fprintln(w)
	}
	if c.NoDiff != "" && c.Kind == baseline.Changed {
		fmt.Fprintf(w, "             no diff: %s\n", printable(c.NoDiff))
	}
}

// show puts an attribute's value on one line.
func show(v any) string {
	switch v := v.(type) {
	case nil:
		return "-"
	case string:
		return printable(v)
	case int64:
		return fmt.Sprint(v)
	}
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	return printable(string(text))
}

// printable keeps what a guest wrote from moving the cursor; its backslashes
// are already those of escapes.
func printable(s string) string {
	var b strings.Builder
	for i, part := range strings.Split(s, `\`) {
		if i > 0 {
			b.WriteByte('\\')
		}
		b.WriteString(filewatch.PrintablePath(part))
	}
	return b.String()
}
