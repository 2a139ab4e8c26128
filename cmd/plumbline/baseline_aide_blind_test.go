package main

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Where AIDE sees or says nothing, there is still no pass.
func TestNoPassWhereAIDEIsBlind(t *testing.T) {
	for _, release := range aideReleases {
		t.Run(release.format, func(t *testing.T) { blind(newAideTree(t, release.suite, release.format)) })
	}
}

func blind(a *aideTree) {
	t := a.t
	a.file("n\xffame", "old")
	a.must(syscall.Mknod(a.root+"/device", syscall.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	rules := "[[rule]]\npath='/device'\nlevel='verify'\ncheck=['rdev']\n[[rule]]\npath='/n*'\nlevel='verify'\ncheck=['sha256']\n[[rule]]\npath='/r*'\nlevel='record'\n"
	a.write(a.out+"/rules.toml", rules)
	file := a.out + "/b"
	a.plumbline([]string{"baseline", "create", "--root", a.root, "-f", file, "--rules", a.out + "/rules.toml"})
	check := []string{"baseline", "check", "--root", a.root, "-f", file, "--format", a.format}

	// Another device of the same name: AIDE keeps no device numbers.
	a.must(os.Remove(a.root + "/device"))
	a.must(syscall.Mknod(a.root+"/device", syscall.S_IFCHR|0o600, int(unix.Mkdev(1, 1))))
	self, err := os.Executable()
	a.must(err)
	var stdout, stderr bytes.Buffer
	cmd := &exec.Cmd{Path: self, Args: append([]string{"plumbline"}, check...), Stdout: &stdout, Stderr: &stderr}
	_ = cmd.Run()
	if os.Geteuid() == 0 && (cmd.ProcessState.ExitCode() != 4 || !strings.Contains(stderr.String(), "1 changes that AIDE does not show, the first of /device")) {
		t.Errorf("exit %d\n%s%s", cmd.ProcessState.ExitCode(), &stdout, &stderr)
	}

	// A name that is not UTF-8: expressions of AIDE before 0.19.5 match it nowhere.
	a.file("n\xffame", "new")
	if ours, code := a.plumbline(check); code != 4 || !strings.Contains(ours, ": /n\xffame\n") {
		t.Errorf("exit %d\n%s", code, ours)
	}

	// What is only recorded is listed and does not count.
	a.file("n\xffame", "old")
	a.file("recorded", "x")
	a.must(os.Remove(a.root + "/device"))
	a.must(syscall.Mknod(a.root+"/device", syscall.S_IFCHR|0o600, int(unix.Mkdev(1, 3))))
	if ours, code := a.plumbline(check); code != 0 || !strings.Contains(ours, "+: /recorded") {
		t.Errorf("exit %d\n%s", code, ours)
	}
	// An option that is none.
	s := &keyStory{t, a.out}
	s.run(15, "check", "--root", a.root, "-f", file, "--format", "aide", "--report-option", "report_level=high")
	s.run(15, "check", "--root", a.root, "-f", file, "--format", "aide", "-o", "json")
	s.run(15, "check", "--root", a.root, "-f", file, "--report-option", "report_level=minimal")
	s.run(15, "check", "--root", a.root, "-f", file, "--format", "tripwire")
}
