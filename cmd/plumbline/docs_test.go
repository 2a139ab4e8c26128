package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDocumentedCommandsParse holds README and docs to the command line: each
// "plumbline ..." in code, in a block or a sentence, must name a command and flags
// that exist.
func TestDocumentedCommandsParse(t *testing.T) {
	pages, err := filepath.Glob("../../docs/*.md")
	if err != nil {
		t.Fatal(err)
	}
	checked := 0
	for _, page := range append(pages, "../../README.md") {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, command := range documentedCommands(string(text)) {
			checked++
			if err := parses(command); err != nil {
				t.Errorf("%s: %q: %v", filepath.Base(page), command, err)
			}
		}
	}
	if checked < 50 {
		t.Errorf("only %d commands found: the test looked at nothing", checked)
	}
}

var inlineCommand = regexp.MustCompile("`plumbline ([^`]*)`")

var commandStart = regexp.MustCompile(`(?:^|[|&;]\s*|\$\s+)plumbline\s+([^|&;<>#]*)`)

// documentedCommands finds the command lines of indented or fenced code, with
// lines that end in a backslash joined.
func documentedCommands(text string) (commands []string) {
	fenced := false
	for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", " ")) {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			fenced = !fenced
			continue
		}
		if !fenced && !strings.HasPrefix(line, "    ") {
			for _, m := range inlineCommand.FindAllStringSubmatch(line, -1) {
				commands = append(commands, m[1])
			}
			continue
		}
		for _, m := range commandStart.FindAllStringSubmatch(strings.TrimSpace(line), -1) {
			commands = append(commands, strings.TrimSpace(m[1]))
		}
	}
	return commands
}

func parses(command string) error {
	args := strings.Fields(strings.NewReplacer("'", "", `"`, "").Replace(command))
	cmd, rest, err := rootCommand().Find(args)
	if err != nil {
		return err
	}
	return cmd.ParseFlags(rest)
}
