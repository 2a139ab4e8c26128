package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch/disk/disktest"
)

// resumeStory is an image of 4 MB of files and scans of it that are ended half way.
type resumeStory struct {
	*keyStory
	source []string
}

func newResumeStory(t *testing.T) *resumeStory {
	t.Helper()
	s := &resumeStory{keyStory: newKeyStory(t)}
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	random := rand.NewChaCha8([32]byte{1})
	for i := range 200 {
		content := make([]byte, 20_000)
		random.Read(content)
		if err := os.WriteFile(s.at(fmt.Sprintf("tree/etc/f%d", i)), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.command("truncate", "-s", "24M", s.at("vm.img"))
	s.command("mke2fs", "-q", "-F", "-t", "ext4", "-d", s.at("tree"), s.at("vm.img"))
	if err := os.WriteFile(s.at("rules"), []byte("[[rule]]\npath='**'\nlevel='verify'\ncheck=['all','sha256']\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return s
}

// end starts a scan and ends it by the signal once it has kept some more.
func (s *resumeStory) end(by syscall.Signal, args ...string) string {
	s.t.Helper()
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := &exec.Cmd{Path: self, Args: append([]string{"plumbline", "baseline"}, s.with(args)...), Dir: s.dir}
	cmd.Args = append(cmd.Args, "--limit", "1M")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	before := s.kept()
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	for began := time.Now(); s.kept() < before+2000; time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > 10*time.Minute {
			cmd.Process.Kill()
			cmd.Wait()
			s.t.Fatalf("nothing is kept: %s", &out)
		}
	}
	if err := cmd.Process.Signal(by); err != nil {
		s.t.Fatal(err)
	}
	cmd.Wait()
	status := cmd.ProcessState.Sys().(syscall.WaitStatus)
	if by == syscall.SIGKILL && status.Signal() != by || by != syscall.SIGKILL && status.ExitStatus() != exitIO {
		s.t.Fatalf("%v: %v\n%s", by, cmd.ProcessState, &out)
	}
	return out.String()
}

func (s *resumeStory) with(args []string) []string {
	return append(append(args, "--resume", "-f", "vm.baseline"), s.source...)
}

// kept is how large the progress is.
func (s *resumeStory) kept() int64 {
	files, _ := filepath.Glob(s.at("plumbline/scans/*.progress"))
	if len(files) == 0 {
		return 0
	}
	info, err := os.Stat(files[0])
	if err != nil {
		return 0
	}
	return info.Size()
}

// resumed is a part of the JSON of create and, below "scan", of check.
type resumed struct {
	Resumed *struct {
		Interruptions int
		Objects       int
		Bytes         int64
	}
	Scan struct {
		Resumed *struct{ Interruptions, Objects int }
		Anew    string
	}
}

func (s *resumeStory) report(want int, args ...string) (r resumed) {
	s.t.Helper()
	out := s.run(want, s.with(append(args, "-o", "json"))...)
	line := out[strings.Index(out, "{"):]
	if err := json.Unmarshal([]byte(line), &r); err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
	return r
}

// A scan that is killed, or told to end, at any time goes on where it was, and
// comes to the very bytes of one that was left alone.
func TestKilledScanGoesOn(t *testing.T) {
	for _, running := range []bool{false, true} {
		t.Run(fmt.Sprintf("running=%v", running), func(t *testing.T) {
			s := newResumeStory(t)
			s.source = []string{"--disk", "vm.img"}
			if running {
				s.source = []string{"--vm", disktest.Start(t, "raw:"+s.at("vm.img")).QMP}
			} else {
				time.Sleep(2100 * time.Millisecond) // of a file written to just now nothing is certain
			}
			// Each baseline is version 1 of its lineage.
			s.run(0, append([]string{"create", "--rules", "rules", "-f", "vm.baseline"}, s.source...)...)
			want, err := os.ReadFile(s.at("vm.baseline"))
			if err != nil {
				t.Fatal(err)
			}
			for _, path := range []string{"vm.baseline", "plumbline/baselines"} {
				if err := os.RemoveAll(s.at(path)); err != nil {
					t.Fatal(err)
				}
			}
			s.end(syscall.SIGKILL, "create", "--rules", "rules")
			s.end(syscall.SIGKILL, "create", "--rules", "rules")
			if out := s.end(syscall.SIGTERM, "create", "--rules", "rules"); !strings.Contains(out, "the same command goes on from there") {
				t.Errorf("SIGTERM: %s", out)
			}
			r := s.report(0, "create", "--rules", "rules")
			if r.Resumed == nil || r.Resumed.Interruptions != 3 || r.Resumed.Objects < 30 || r.Resumed.Bytes < 600_000 {
				t.Errorf("create: %+v", r.Resumed)
			}
			got, err := os.ReadFile(s.at("vm.baseline"))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Error("the resumed scan made another baseline")
			}
			s.end(syscall.SIGINT, "check")
			if r := s.report(0, "check"); r.Scan.Resumed == nil || r.Scan.Resumed.Objects < 10 {
				t.Errorf("check: %+v", r.Scan)
			}
			if s.kept() != 0 {
				t.Error("progress is left behind")
			}
		})
	}
}

// What was written to, on the disk or in the progress, is not gone on with.
func TestDetectsChangesWhileInterrupted(t *testing.T) {
	s := newResumeStory(t)
	s.source = []string{"--disk", "vm.img"}
	time.Sleep(2100 * time.Millisecond)
	s.run(0, append([]string{"create", "-f", "vm.baseline"}, s.source...)...)

	s.end(syscall.SIGKILL, "check")
	progress, err := filepath.Glob(s.at("plumbline/scans/*.progress"))
	if err != nil || len(progress) != 1 {
		t.Fatal(progress, err)
	}
	b, err := os.ReadFile(progress[0])
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)*3/4] ^= 1
	if err := os.WriteFile(progress[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := s.report(0, "check"); r.Scan.Resumed != nil || !strings.Contains(r.Scan.Anew, "damaged, or someone without the key") {
		t.Errorf("tampered progress: %+v", r.Scan)
	}

	s.end(syscall.SIGKILL, "check")
	info, err := os.Stat(s.at("vm.img"))
	if err != nil {
		t.Fatal(err)
	}
	s.command("debugfs", "-w", "-R", "rm /etc/f0", s.at("vm.img"))
	if err := os.Chtimes(s.at("vm.img"), time.Time{}, info.ModTime()); err != nil {
		t.Fatal(err)
	}
	if r := s.report(2, "check"); r.Scan.Resumed != nil || !strings.Contains(r.Scan.Anew, "was written to since") {
		t.Errorf("changed image: %+v", r.Scan)
	}
}

func TestResumeArguments(t *testing.T) {
	s := newKeyStory(t)
	for _, args := range [][]string{
		{"create", "--root", "tree", "--resume"},
		{"check", "--root", "tree", "--resume"},
		{"check", "--disk", "x", "--resume", "--full-every", "3"},
		{"create", "--disk", "x", "--state", "d"},
	} {
		s.run(exitArgument, append(args, "-f", "b")...)
	}
}
