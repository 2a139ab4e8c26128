package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// writeManual writes the page of a command and those of the commands below it.
func writeManual(cmd *cobra.Command, dir string, day time.Time) error {
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			if err := writeManual(c, dir, day); err != nil {
				return err
			}
		}
	}
	cmd.InitDefaultHelpFlag()
	return os.WriteFile(filepath.Join(dir, pageName(cmd)+".1"), []byte(manPage(cmd, day)), 0o644)
}

// pageName is the name of a command's page: its path with dashes.
func pageName(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

// manPage is the page of a command in the man macros of roff (man(7), groff_man(7)).
func manPage(cmd *cobra.Command, day time.Time) string {
	var b strings.Builder
	name := pageName(cmd)
	fmt.Fprintf(&b, ".nh\n.TH %q \"1\" %q %q \"Plumbline\"\n", strings.ToUpper(name), day.Format("Jan 2006"), "plumbline "+version())
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", roff(name), roff(cmd.Short))
	fmt.Fprintf(&b, ".SH SYNOPSIS\n\\fB%s\\fP\n", roff(cmd.UseLine()))
	text := cmd.Long
	if text == "" {
		text = cmd.Short
	}
	fmt.Fprintf(&b, ".SH DESCRIPTION\n%s\n", paragraphs(text))
	manFlags(&b, "OPTIONS", cmd.NonInheritedFlags())
	manFlags(&b, "OPTIONS INHERITED FROM PARENT COMMANDS", cmd.InheritedFlags())
	if cmd.Example != "" {
		fmt.Fprintf(&b, ".SH EXAMPLE\n.EX\n%s\n.EE\n", roff(cmd.Example))
	}
	if see := seeAlso(cmd); len(see) > 0 {
		fmt.Fprintf(&b, ".SH SEE ALSO\n%s\n", strings.Join(see, ",\n"))
	}
	return b.String()
}

// roff escapes text: what would be a hyphen is the minus sign that was typed, and a
// line that begins like a request is none.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text)
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}

// paragraphs are text with empty lines between its paragraphs; lines that are set in
// are left as they are.
func paragraphs(text string) string {
	var out []string
	for i, p := range strings.Split(strings.TrimSpace(text), "\n\n") {
		if i > 0 {
			out = append(out, ".PP")
		}
		if strings.HasPrefix(p, " ") {
			p = ".EX\n" + roff(p) + "\n.EE"
		} else {
			p = roff(p)
		}
		out = append(out, p)
	}
	return strings.Join(out, "\n")
}

func manFlags(w io.Writer, title string, flags *pflag.FlagSet) {
	if !flags.HasAvailableFlags() {
		return
	}
	fmt.Fprintf(w, ".SH %s\n", title)
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Deprecated != "" {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		names := `\fB` + roff("--"+f.Name) + `\fP`
		if f.Shorthand != "" && f.ShorthandDeprecated == "" {
			names = `\fB` + roff("-"+f.Shorthand) + `\fP, ` + names
		}
		switch optional := f.NoOptDefVal != "" && f.Value.Type() != "bool"; {
		case value != "" && optional:
			names += `[=\fI` + roff(value) + `\fP]`
		case value != "":
			names += ` \fI` + roff(value) + `\fP`
		}
		if d := shownDefault(f); d != "" {
			usage += " (default " + d + ")"
		}
		fmt.Fprintf(w, ".TP\n%s\n%s\n", names, roff(usage))
	})
}

// shownDefault is a flag's value where none is given, "" for what goes without saying.
func shownDefault(f *pflag.Flag) string {
	switch d := f.DefValue; {
	case slices.Contains([]string{"", "false", "0", "[]", "0s"}, d):
		return ""
	case f.Value.Type() == "string":
		return strconv.Quote(d)
	default:
		return d
	}
}

// seeAlso are the pages of the command above and of those below.
func seeAlso(cmd *cobra.Command) (out []string) {
	entry := func(c *cobra.Command) { out = append(out, `\fB`+roff(pageName(c))+`\fP(1)`) }
	if cmd.HasParent() {
		entry(cmd.Parent())
	}
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			entry(c)
		}
	}
	return out
}
