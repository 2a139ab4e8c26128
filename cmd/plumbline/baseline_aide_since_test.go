package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/filewatch/disk/disktest"
)

const aideSinceRules = `[[rule]]
path = "/etc/log*"
level = "verify"
check = ["growing", "mode", "owner", "sha256"]

[[rule]]
path = "**"
level = "verify"
check = ["type", "mode", "inode", "link", "nlink", "uid", "gid", "size", "mtime", "ctime", "sha256", "xattrs", "flags"]
`

// AIDE's report, and its exit code, are those of a full check whatever a scan built
// on: the last one, when something changed since or nothing did, or an interrupted
// one.
func TestAIDEReportOfScansThatBuildOnOthers(t *testing.T) {
	s := newResumeStory(t)
	for path, text := range map[string]string{"rules": aideSinceRules, "log1": "a\n", "log2": "a\n", "log1+": "a\nb\n", "log2+": "b\nb\n"} {
		if err := os.WriteFile(s.at(path), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.debugfs("vm.img", "write log1 /etc/log1", "write log2 /etc/log2")
	s.command("cp", s.at("vm.img"), s.at("live"))
	m := disktest.Start(t, "raw:"+s.at("live"))
	s.source = []string{"--vm", m.QMP}
	s.run(0, append([]string{"create", "--rules", "rules", "-f", "vm.baseline", "--incremental", "--state", "last"}, s.source...)...)

	become := func(want int, commands ...string) {
		t.Helper()
		s.command("cp", s.at("vm.img"), s.at("before"))
		s.debugfs("vm.img", commands...)
		m.BecomeFile(t, 0, s.at("before"), s.at("vm.img"))
		full, _ := s.aide(want)
		for _, name := range []string{"what changed", "nothing changed"} {
			report, said := s.aide(want, "--incremental", "--state", "last")
			if d := cmp.Diff(full, report); d != "" || !strings.Contains(said, "incremental scan since") {
				t.Errorf("%s: full report against incremental:\n%s\n%s", name, d, said)
			}
		}
		s.end(syscall.SIGKILL, "check")
		report, said := s.aide(want, "--resume")
		if d := cmp.Diff(full, report); d != "" || !strings.Contains(said, "resumed: begun") {
			t.Errorf("full report against resumed:\n%s\n%s", d, said)
		}
	}
	become(0, "set_inode_field /etc/f0 atime @1700000000") // AIDE has no word for it
	become(4, "rm /etc/log1", "write log1+ /etc/log1", "set_inode_field /etc/f1 mode 0100600")
	become(7, "rm /etc/log2", "write log2+ /etc/log2", "rm /etc/f2", "write rules /etc/new", "ln /etc/f3 /etc/other")
	become(7, "set_inode_field /etc/f1 mode 0100644", "unlink /etc/other") // some of it goes back
}

// debugfs runs commands on an image.
func (s *resumeStory) debugfs(image string, commands ...string) {
	s.t.Helper()
	path := filepath.Join(s.t.TempDir(), "commands")
	if err := os.WriteFile(path, []byte(strings.Join(commands, "\n")), 0o600); err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command("debugfs", "-w", "-f", path, image)
	cmd.Dir = s.dir
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
}

var aideTimes = regexp.MustCompile(`(?m)timestamp: .*$`)

// aide is the report of a check in AIDE's words without its times, and what the
// check says besides.
func (s *resumeStory) aide(want int, args ...string) (report, said string) {
	s.t.Helper()
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	var out, errors bytes.Buffer
	args = append(append([]string{"plumbline", "baseline", "check", "-f", "vm.baseline", "--format", "aide"}, args...), s.source...)
	cmd := &exec.Cmd{Path: self, Args: args, Dir: s.dir, Stdout: &out, Stderr: &errors}
	if _ = cmd.Run(); cmd.ProcessState.ExitCode() != want {
		s.t.Fatalf("%v: exit %d, want %d\n%s", args, cmd.ProcessState.ExitCode(), want, fmt.Sprint(&out, &errors))
	}
	return aideTimes.ReplaceAllString(out.String(), "timestamp"), errors.String()
}
