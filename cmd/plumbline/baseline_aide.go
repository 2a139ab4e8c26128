package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/baseline/aide"
	"github.com/plumbline-sec/plumbline/filewatch"
)

// aideFlags ask for a report in AIDE's words.
type aideFlags struct {
	format  string
	options []string
	legend  bool
	parsed  aide.ReportOptions
}

// aideFormats are the formats in AIDE's words.
var aideFormats = map[string]aide.Release{"aide": aide.Release018, "aide-0.18": aide.Release018, "aide-0.19": aide.Release019}

func (a *aideFlags) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&a.format, "format", "plumbline", fmt.Sprintf("`LAYOUT` of the text: plumbline, aide (or aide-0.18) for the report of AIDE %s, aide-0.19 for that of %s", aide.Release018, aide.Release019))
	f.StringSliceVar(&a.options, "report-option", nil, "with --format aide, `OPTION=VALUE` as in aide.conf, like report_level=summary")
	f.BoolVar(&a.legend, "legend", true, "with --format aide, say on standard error what the letters mean")
}

func (a *aideFlags) aide() bool { return a.release() != "" }

func (a *aideFlags) release() aide.Release { return aideFormats[a.format] }

// valid checks the flags against each other.
func (a *aideFlags) valid(cmd *cobra.Command) error {
	if a.format != "plumbline" && !a.aide() {
		return fail(exitArgument, fmt.Errorf("--format %q: there is plumbline, aide, aide-0.18 and aide-0.19", a.format))
	}
	if a.aide() && cmd.Flag("output").Changed && cmd.Flag("output").Value.String() != "text" {
		return fail(exitArgument, fmt.Errorf("--format %s is text; it does not go with -o %s", a.format, cmd.Flag("output").Value))
	}
	if !a.aide() && len(a.options) > 0 {
		return fail(exitArgument, fmt.Errorf("--report-option needs --format aide"))
	}
	for _, o := range a.options {
		if err := a.parsed.Set(o); err != nil {
			return fail(exitArgument, err)
		}
	}
	return nil
}

// create is the report of "aide --init".
func (a *aideFlags) create(w io.Writer, flags *baselineCreateFlags, began time.Time, snap *baseline.Snapshot) error {
	state := snap.State()
	r := &aide.Report{Action: aide.Init, Release: a.release(), Start: began, New: state.Records, Rules: state.Rules, RootPrefix: rootPrefix(&flags.source)}
	_, err := a.write(w, r, flags.file)
	return err
}

// aideCheck is the report of "aide --check": look collects it while all that was
// found can be read.
type aideCheck struct {
	*aideFlags
	flags     *baselineCheckFlags
	report    *aide.Report
	collected *aide.Collected
}

func (a *aideCheck) look(began time.Time, base *opened, now *baseline.State) (err error) {
	a.report = &aide.Report{Action: aide.Check, Release: a.release(), Start: began, Old: base.Records(), New: now.Records, Rules: now.Rules,
		Kept: now.Kept, RootPrefix: rootPrefix(&a.flags.source)}
	a.collected, err = a.report.Collect(&a.parsed)
	return err
}

func (a *aideCheck) print(cmd *cobra.Command, c *checked) error {
	a.report.Excused = excused(c.report)
	err := a.complete(a.report, a.flags.file)
	mask := 0
	if err == nil {
		mask, err = a.collected.Write(cmd.OutOrStdout())
	}
	return a.finish(cmd.ErrOrStderr(), c.report, mask, err)
}

// diff is the report of "aide --compare".
func (a *aideFlags) diff(cmd *cobra.Command, paths []string, began time.Time, old, new *opened, report *baseline.Report) error {
	rules, err := new.Header.ParseRules()
	if err != nil {
		return baselineError(paths[1], err)
	}
	r := &aide.Report{Action: aide.Compare, Release: a.release(), Start: began, Old: old.Records(), New: new.Records(), Rules: rules, Excused: excused(report)}
	mask, err := a.write(cmd.OutOrStdout(), r, paths...)
	return a.finish(cmd.ErrOrStderr(), report, mask, err)
}

func (a *aideFlags) write(w io.Writer, r *aide.Report, paths ...string) (int, error) {
	if err := a.complete(r, paths...); err != nil {
		return 0, err
	}
	return r.Write(w, &a.parsed)
}

// complete ends a run of the baselines at paths.
func (a *aideFlags) complete(r *aide.Report, paths ...string) error {
	for _, path := range paths {
		db, err := database(path)
		if err != nil {
			return err
		}
		r.Databases = append(r.Databases, db)
	}
	r.End = time.Now()
	return nil
}

// database digests a baseline's file.
func database(path string) (aide.Database, error) {
	f, err := os.Open(path)
	if err != nil {
		return aide.Database{}, err
	}
	defer f.Close()
	digest := sha256.New()
	if _, err := io.Copy(digest, f); err != nil {
		return aide.Database{}, err
	}
	if full, err := filepath.Abs(path); err == nil {
		path = full
	}
	return aide.Database{Path: path, SHA256: [32]byte(digest.Sum(nil))}, nil
}

// rootPrefix is what AIDE calls the directory a tree is mounted at.
func rootPrefix(s *sourceFlags) string { return strings.TrimRight(s.root, "/") }

// excused are the paths of changes that packages account for.
func excused(report *baseline.Report) func(string) bool {
	paths := map[string]bool{}
	for _, c := range report.Changes {
		if c.Explained != "" {
			for _, r := range []*baseline.Record{c.Old, c.New} {
				if r != nil {
					for _, name := range r.Names {
						paths[name] = true
					}
				}
			}
		}
	}
	return func(path string) bool { return paths[path] }
}

// finish says on standard error what AIDE has no words for, and gives the exit
// code: AIDE's, and never 0 where something differs or was not compared.
func (a *aideFlags) finish(stderr io.Writer, report *baseline.Report, mask int, err error) error {
	if err != nil {
		return fail(exitIO, err)
	}
	if a.legend && mask != 0 {
		fmt.Fprint(stderr, a.release().Legend())
	}
	for _, c := range report.Changes {
		if c.Kind == baseline.Unmeasured {
			fmt.Fprintf(stderr, "plumbline: not measured: %s: %s\n", filewatch.PrintablePath(c.Path), printable(c.Explanation))
		}
	}
	switch {
	case mask != 0:
		return verdict(mask)
	case report.Mask() != 0:
		counts := slices.DeleteFunc(slices.Clone(report.Changes), func(c *baseline.Change) bool { return !c.Counts() })
		fmt.Fprintf(stderr, "plumbline: %d changes that AIDE does not show, the first of %s\nhint: leave out --format aide\n",
			len(counts), filewatch.PrintablePath(counts[0].Path))
		return verdict(report.Mask())
	case report.Outcome() == "incomplete":
		return verdict(exitIncomplete)
	}
	return nil
}
