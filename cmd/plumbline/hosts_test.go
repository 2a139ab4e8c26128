package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/plumbline-sec/plumbline/remote"
)

// Files that were not all compared do not read as those of the baseline.
func TestFilesWord(t *testing.T) {
	for _, c := range []struct {
		files remote.Files
		want  string
	}{
		{remote.Files{}, "-"},
		{remote.Files{Baseline: "d"}, "as baseline"},
		{remote.Files{Baseline: "d", Unmeasured: 2}, "2 not measured"},
		{remote.Files{Baseline: "d", Accepted: make([]remote.AcceptedGap, 1)}, "as baseline but for 1 accepted gap"},
		{remote.Files{Baseline: "d", Unmeasured: 2, Violations: 1}, "1 differ"},
	} {
		if got := filesWord(c.files); got != c.want {
			t.Errorf("%+v: %q, want %q", c.files, got, c.want)
		}
	}
}

// The newest events of a machine are in what people read of it.
func TestMachineWithEvents(t *testing.T) {
	m := &remote.MachineDetail{Machine: remote.Machine{Name: "vm1"}}
	for _, name := range []string{"a", "b", "c", "d", "e", "f"} {
		m.Events = append(m.Events, remote.FileEvent{Path: "/etc/" + name})
	}
	var out strings.Builder
	cmd := &cobra.Command{}
	cmd.SetOut(&out)
	if err := printMachine(cmd, m, "text"); err != nil {
		t.Fatal(err)
	}
	if text := out.String(); !strings.Contains(text, "/etc/e") || strings.Contains(text, "/etc/f") {
		t.Errorf("want five events:\n%s", text)
	}
}
