package main

import (
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

// macros are the requests and macros that our pages use (groff_man(7)).
var macros = map[string]bool{".nh": true, ".TH": true, ".SH": true, ".TP": true, ".PP": true, ".EX": true, ".EE": true}

// Each command has a page, on which every flag of its --help is, and no line of its
// text is taken for a request.
func TestManualPages(t *testing.T) {
	pages := 0
	var each func(*cobra.Command)
	each = func(cmd *cobra.Command) {
		pages++
		cmd.InitDefaultHelpFlag()
		page := manPage(cmd, time.Unix(0, 0).UTC())
		for line := range strings.Lines(page) {
			request, _, _ := strings.Cut(strings.TrimSpace(line), " ")
			if strings.HasPrefix(line, "'") || strings.HasPrefix(line, ".") && !macros[request] {
				t.Errorf("%s: a line like a request: %q", cmd.CommandPath(), line)
			}
		}
		for _, name := range flagNames(cmd) {
			if !strings.Contains(page, `\fB`+roff("--"+name)+`\fP`) {
				t.Errorf("%s: the page has no --%s", cmd.CommandPath(), name)
			}
		}
		for _, c := range cmd.Commands() {
			if c.IsAvailableCommand() {
				each(c)
			}
		}
	}
	each(rootCommand())
	if pages < 20 {
		t.Errorf("%d pages", pages)
	}
}

// flagNames are the flags that the command's --help shows.
func flagNames(cmd *cobra.Command) (names []string) {
	for line := range strings.Lines(cmd.Flags().FlagUsages()) {
		if _, name, ok := strings.Cut(line, "--"); ok {
			names = append(names, strings.FieldsFunc(name, func(r rune) bool { return r == ' ' || r == '[' || r == '\n' })[0])
		}
	}
	return names
}

func TestManPage(t *testing.T) {
	cmd := &cobra.Command{Use: "some", Short: "Do a-b", Long: "First.\n.second \\\n\n  set in\n\n'third", Example: "  some --all", Run: func(*cobra.Command, []string) {}}
	cmd.Flags().String("file", "here", "read `FILE`")
	cmd.Flags().Bool("all", false, "everything")
	want := `.SH NAME
some \- Do a\-b
.SH SYNOPSIS
\fBsome [flags]\fP
.SH DESCRIPTION
First.
\&.second \e
.PP
.EX
  set in
.EE
.PP
\&'third
.SH OPTIONS
.TP
\fB\-\-all\fP
everything
.TP
\fB\-\-file\fP \fIFILE\fP
read FILE (default "here")
.SH EXAMPLE
.EX
  some \-\-all
.EE
`
	_, got, _ := strings.Cut(manPage(cmd, time.Unix(0, 0).UTC()), "\n.SH NAME")
	if got = ".SH NAME" + got; got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}
