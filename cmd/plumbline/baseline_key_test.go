package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// keyStory is a tree with a baseline that some key signs, and one that is not
// trusted.
type keyStory struct {
	t   *testing.T
	dir string
}

func newKeyStory(t *testing.T) *keyStory {
	t.Helper()
	s := &keyStory{t, t.TempDir()}
	t.Setenv("XDG_CONFIG_HOME", s.dir)
	t.Setenv("XDG_STATE_HOME", s.dir)
	if err := os.MkdirAll(s.at("tree/etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *keyStory) at(name string) string { return filepath.Join(s.dir, name) }

// run runs plumbline and wants an exit code.
func (s *keyStory) run(want int, args ...string) string {
	s.t.Helper()
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := &exec.Cmd{Path: self, Args: append([]string{"plumbline", "baseline"}, args...), Dir: s.dir}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if _ = cmd.Run(); cmd.ProcessState.ExitCode() != want {
		s.t.Fatalf("%v: exit %d, want %d\n%s", args, cmd.ProcessState.ExitCode(), want, &out)
	}
	return out.String()
}

// signs makes, checks and accepts with a key, and has an OpenSSH or PEM file of
// its public half accepted elsewhere, and another's refused.
func (s *keyStory) signs(key, public string, more ...string) {
	s.t.Helper()
	with := func(args ...string) []string { return append(args, more...) }
	file := s.at("b-" + regexp.MustCompile(`\W`).ReplaceAllString(public, ""))
	s.run(0, with("create", "--root", "tree", "-f", file, "--key", key)...)
	s.run(0, with("check", "--root", "tree", "-f", file, "--key", key)...)
	if err := os.WriteFile(s.at("tree/etc/"+filepath.Base(file)), []byte("x"), 0o644); err != nil {
		s.t.Fatal(err)
	}
	s.run(0, with("accept", "--root", "tree", "-f", file, "--key", key, "--all", "--reason", "test")...)
	s.run(0, "verify", file, "--public-key", public)
	s.run(24, "verify", file, "--public-key", s.other())
}

// other is the public key of someone else.
func (s *keyStory) other() string {
	s.t.Helper()
	path := s.at("other.pub")
	if _, err := os.Stat(path); err != nil {
		s.command("openssl", "genpkey", "-algorithm", "ed25519", "-out", s.at("other"))
		s.command("openssl", "pkey", "-in", s.at("other"), "-pubout", "-out", path)
	}
	return path
}

func (s *keyStory) command(name string, args ...string) string {
	s.t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

// Keys stay in a real ssh-agent; what is signed is a baseline.
func TestSSHAgentSigns(t *testing.T) {
	s := newKeyStory(t)
	dir, err := os.MkdirTemp("", "agent-") // a socket's path may have 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv("SSH_AUTH_SOCK", dir+"/s")
	started := s.command("ssh-agent", "-s", "-a", dir+"/s")
	pid := regexp.MustCompile(`SSH_AGENT_PID=(\d+)`).FindStringSubmatch(started)
	if pid == nil {
		t.Fatal(started)
	}
	t.Cleanup(func() { s.command("kill", pid[1]) })
	for _, kind := range [][]string{{"ed25519"}, {"ecdsa", "-b", "256"}, {"ecdsa", "-b", "384"}, {"ecdsa", "-b", "521"}, {"rsa", "-b", "2048"}} {
		name := s.at("id-" + strings.Join(kind, ""))
		s.command("ssh-keygen", append([]string{"-q", "-N", "", "-C", "", "-f", name, "-t"}, kind...)...)
		s.command("ssh-add", "-q", name)
		if err := os.Remove(name); err != nil { // only the agent has it now
			t.Fatal(err)
		}
		fingerprint := strings.Fields(s.command("ssh-keygen", "-l", "-E", "sha256", "-f", name+".pub"))[1]
		s.signs("ssh-agent:"+fingerprint, name+".pub")
		if out := s.run(0, "key", "--key", "ssh-agent:"+fingerprint, "--out", name+".pem"); !strings.HasPrefix(out, kind[0]) {
			t.Errorf("%s: %s", kind, out)
		}
		s.run(0, "verify", "-f", s.at("b-"+regexp.MustCompile(`\W`).ReplaceAllString(name+".pub", "")), "--public-key", name+".pem")
	}
	// Keys that are too weak, not there, or more than one.
	s.command("ssh-keygen", "-q", "-N", "", "-C", "weak", "-f", s.at("weak"), "-t", "rsa", "-b", "1024")
	s.command("ssh-add", "-q", s.at("weak"))
	s.run(17, "create", "--root", "tree", "-f", s.at("weak.b"), "--key", "ssh-agent:weak")
	s.run(17, "create", "--root", "tree", "-f", s.at("none.b"), "--key", "ssh-agent:SHA256:none")
	s.run(17, "create", "--root", "tree", "-f", s.at("none.b"), "--key", "ssh-agent:")
	s.run(17, "verify", s.at("b-none"), "--public-key", s.at("weak.pub"))
	if out := s.run(17, "create", "--root", "tree", "-f", s.at("none.b"), "--key", s.at("weak")); !strings.Contains(out, "ssh-agent:") {
		t.Error(out)
	}
	s.command("ssh-add", "-q", "-D")
	if out := s.run(17, "create", "--root", "tree", "-f", s.at("none.b"), "--key", "ssh-agent:weak"); !strings.Contains(out, "no keys, or is locked") {
		t.Error(out)
	}
	t.Setenv("SSH_AUTH_SOCK", "")
	s.run(17, "create", "--root", "tree", "-f", s.at("none.b"), "--key", "ssh-agent:weak")
}
