package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/baseline/sign"
	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/internal/durable"
)

type baselineAcceptFlags struct {
	check          baselineCheckFlags
	paths          []string
	all            bool
	since, until   string
	reason, author string
	dryRun         bool
	output         *string
}

func baselineAcceptCommand() *cobra.Command {
	var flags baselineAcceptFlags
	cmd := &cobra.Command{
		Use:   "accept -f FILE (--disk IMAGE | --vm QMP_SOCKET | --root DIR) (--path GLOB | --since TIME | --package FILE | --all) --reason TEXT",
		Short: "Take chosen changes over into the baseline",
		Long: `Accept checks the machine and makes the chosen changes right: the next version of
the baseline has them, with the reason and the author. Everything else stays as
it was.

--path takes a path or a pattern as in rules; --since and --until take a window
of change times (RFC 3339); --package takes what a package accounts for. Together
they narrow each other.

--dry-run shows the chosen changes as "check" does and takes over none; it needs
no key and no reason. The exit code is 0 when they could be accepted, as always
40 when one was not read whole and 15 when there is none.`,
		Example: `  plumbline baseline accept --disk vm.img -f vm.baseline --path /etc/motd --reason "new greeting"
  plumbline baseline accept --disk vm.img -f vm.baseline --package /var/cache/apt/archives --dry-run
  plumbline baseline accept --disk vm.img -f vm.baseline --package /var/cache/apt/archives --reason "security updates"
  plumbline baseline accept --disk vm.img -f vm.baseline --since 2026-11-23T02:00:00Z --until 2026-11-23T03:00:00Z --reason "nightly upgrade"`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error { return runBaselineAccept(cmd, &flags) },
	}
	flags.check.add(cmd)
	flags.output = outputFlag(cmd, "text", "json", "ndjson")
	f := cmd.Flags()
	f.StringArrayVar(&flags.paths, "path", nil, "changes of this path or `GLOB`")
	f.BoolVar(&flags.all, "all", false, "every change")
	f.StringVar(&flags.since, "since", "", "changes from `TIME` on")
	f.StringVar(&flags.until, "until", "", "changes up to `TIME`")
	f.StringVar(&flags.reason, "reason", "", "why this is right, as `TEXT`; kept in the baseline")
	f.StringVar(&flags.author, "author", "", "`NAME` of who says so; default: the user")
	f.BoolVar(&flags.dryRun, "dry-run", false, "show what would be accepted, and write nothing")
	cmd.MarkFlagsOneRequired("reason", "dry-run")
	cmd.MarkFlagsOneRequired("path", "since", "until", "package", "all")
	return cmd
}

func runBaselineAccept(cmd *cobra.Command, flags *baselineAcceptFlags) error {
	choose, selection, err := flags.selection()
	if err != nil {
		return fail(exitArgument, err)
	}
	if flags.dryRun {
		return runBaselineCheck(cmd.Context(), cmd.ErrOrStderr(), &flags.check, func(c *checked) error {
			return flags.preview(cmd.OutOrStdout(), c, choose)
		})
	}
	key, release, err := flags.check.key.signer()
	if err != nil {
		return err
	}
	defer release()
	return runBaselineCheck(cmd.Context(), cmd.ErrOrStderr(), &flags.check, func(c *checked) error {
		return flags.accept(cmd, c, choose, selection, key)
	})
}

// accept writes the next version with the chosen changes.
func (flags *baselineAcceptFlags) accept(cmd *cobra.Command, done *checked, choose func(*baseline.Change) bool, selection string, key sign.Signer) error {
	report, b := done.report, done.base
	chosen := chosenOf(report, choose)
	decision := &baseline.Decision{Time: time.Now(), Author: flags.who(), Reason: flags.reason, Selection: selection, Tool: "plumbline " + version()}
	var header *baseline.Header
	err := durable.Replace(flags.check.file, 0o644, func(w io.Writer) (err error) {
		header, err = baseline.Accept(b.Baseline, chosen, decision, w, key)
		return err
	})
	if err != nil {
		return baselineError(flags.check.file, err)
	}
	if err := ledger().Raise(header.Lineage, header.Version); err != nil {
		return fail(exitIO, err)
	}
	flags.keepState(cmd.ErrOrStderr(), &b.Header)
	return flags.print(cmd.OutOrStdout(), header, len(report.Changes))
}

func chosenOf(report *baseline.Report, choose func(*baseline.Change) bool) (chosen []*baseline.Change) {
	for _, c := range report.Changes {
		if choose(c) {
			chosen = append(chosen, c)
		}
	}
	return chosen
}

// preview shows what would be accepted, as a check shows changes, and fails where
// accepting would.
func (flags *baselineAcceptFlags) preview(w io.Writer, done *checked, choose func(*baseline.Change) bool) error {
	shown := *done.report
	shown.Changes = chosenOf(done.report, choose)
	var told *exitError // the exit code of a check is of no interest here
	if err := printChanges(w, &shown, *flags.output); err != nil && (!errors.As(err, &told) || told.err != nil) {
		return err
	}
	if *flags.output == "text" {
		fmt.Fprintf(w, "%s: %s would be accepted, %d left\n", flags.check.file, counted(len(shown.Changes), "change"), len(done.report.Changes)-len(shown.Changes))
	}
	return baselineError(flags.check.file, baseline.Acceptable(shown.Changes))
}

// keepState sets the state of the last scan, if it is of the version before, against
// the one that was written, so that the next scan can build on it.
func (flags *baselineAcceptFlags) keepState(stderr io.Writer, before *baseline.Header) {
	place := flags.check.source.place()
	dir, err := flags.check.source.since.dir(&place, flags.check.file)
	if err != nil {
		return
	}
	rules, err := readRules(flags.check.rules)
	if err == nil && rules == nil {
		rules, err = before.ParseRules()
	}
	if err != nil {
		return
	}
	last, err := baseline.OpenLast(dir, before, rules)
	if err != nil {
		return // there is none: nothing is lost
	}
	b, err := openBaseline(flags.check.file, &flags.check.key, nil)
	if err == nil {
		defer b.Close()
		err = last.Against(b.Baseline, rules)
	}
	if err != nil {
		fmt.Fprintf(stderr, "plumbline: the next scan will be full: %s\n", printable(err.Error()))
	}
}

// print says what was accepted.
func (flags *baselineAcceptFlags) print(w io.Writer, header *baseline.Header, found int) error {
	last := header.Accepted[len(header.Accepted)-1]
	left := found - len(last.Changes)
	switch *flags.output {
	case "json", "ndjson":
		return json.NewEncoder(w).Encode(struct {
			baseline.Acceptance
			Left int `json:"left"` // changes that were not chosen
		}{last, left})
	}
	for _, change := range last.Changes {
		fmt.Fprintf(w, "accepted %s\n", printable(change))
	}
	_, err := fmt.Fprintf(w, "%s: version %d, %s accepted, %d left\n", flags.check.file, header.Version, counted(len(last.Changes), "change"), left)
	return err
}

func (f *baselineAcceptFlags) who() string {
	if f.author != "" {
		return f.author
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return fmt.Sprintf("uid %d", os.Getuid())
}

// selection turns the flags into a choice and its description.
func (f *baselineAcceptFlags) selection() (func(*baseline.Change) bool, string, error) {
	if strings.TrimSpace(f.reason) == "" && !f.dryRun {
		return nil, "", errors.New("the reason is empty")
	}
	var words []string
	var paths *filewatch.Paths
	if len(f.paths) > 0 {
		var err error
		if paths, err = filewatch.ParsePaths(f.paths); err != nil {
			return nil, "", err
		}
		words = append(words, "path "+strings.Join(f.paths, " "))
	}
	since, err := parseWhen("since", f.since, &words)
	if err != nil {
		return nil, "", err
	}
	until, err := parseWhen("until", f.until, &words)
	if err != nil {
		return nil, "", err
	}
	if f.check.packages != nil {
		words = append(words, "package "+strings.Join(f.check.packages, " "))
	}
	if f.all {
		words = append(words, "all")
	}
	return func(c *baseline.Change) bool {
		if paths != nil && !paths.Match(c.Path) {
			return false
		}
		if f.check.packages != nil && c.Explained == "" {
			return false
		}
		if since.IsZero() && until.IsZero() {
			return true
		}
		// A removed object has no time of its own, so no window has it.
		return c.New != nil && !c.New.Ctime.Before(since) && (until.IsZero() || !c.New.Ctime.After(until))
	}, strings.Join(words, ", "), nil
}

func parseWhen(flag, text string, words *[]string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		return t, fmt.Errorf("--%s: %w", flag, err)
	}
	*words = append(*words, flag+" "+text)
	return t, nil
}
