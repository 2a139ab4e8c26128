//go:build lab

package agent

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/attest/tpm/tpmtest"
	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store/sqlite"
	"github.com/plumbline-sec/plumbline/remote/verifier"
)

// serveVerifier runs a verifier for host1, whose TPM is the emulator's, and vm1, and
// gives a client of it and the agent's part of a configuration.
func serveVerifier(t *testing.T, e *tpmtest.Emulator) (*remote.Client, VerifierConfig) {
	t.Helper()
	state := t.TempDir()
	config, err := verifier.ParseConfig(fmt.Appendf(nil, `
listen = "127.0.0.1:0"
[enrolment]
approval      = ["ca"]
ca            = [%q]
intermediates = [%q]
[[host]]
name = "host1"
[[host]]
name        = "vm1"
measured_by = "host1"
`, e.RootFile, e.IntermediateFile), state)
	if err != nil {
		t.Fatal(err)
	}
	db, err := sqlite.Open(filepath.Join(state, "verifier.db"))
	if err != nil {
		t.Fatal(err)
	}
	v, err := verifier.New(verifier.Options{Config: config, Store: db, State: state})
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan verifier.Serving, 1)
	run(t, "verifier", func(ctx context.Context) error {
		defer db.Close()
		return v.Serve(ctx, func(s verifier.Serving) { ready <- s })
	})
	var serving verifier.Serving
	select {
	case serving = <-ready:
	case <-time.After(patience):
		t.Fatal("the verifier does not serve")
	}
	ca, err := os.ReadFile(serving.CA)
	if err != nil {
		t.Fatal(err)
	}
	token, err := os.ReadFile(serving.Token)
	if err != nil {
		t.Fatal(err)
	}
	client, err := remote.NewClient(remote.ClientOptions{Address: serving.Address, Trust: remote.Trust{CA: ca}, Token: strings.TrimSpace(string(token))})
	if err != nil {
		t.Fatal(err)
	}
	return client, VerifierConfig{Address: serving.Address, Fingerprint: serving.Fingerprint}
}

// run runs a service until the test ends, or it is stopped before.
func run(t *testing.T, name string, serve func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx) }()
	stopped := false
	stop = func() {
		cancel()
		if !stopped {
			stopped = true
			if err := <-ended; err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	t.Cleanup(stop)
	return stop
}

// runAgent runs an agent until it is stopped.
func runAgent(t *testing.T, config *Config, log io.Writer) (stop func()) {
	t.Helper()
	a, err := New(config, Options{Log: slog.New(slog.NewTextHandler(io.MultiWriter(t.Output(), log), nil)), Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	return run(t, "agent", func(ctx context.Context) error {
		defer a.Close()
		return a.Run(ctx)
	})
}

// becomes waits until what is known of vm1 is as wanted.
func becomes(t *testing.T, client *remote.Client, what string, is func(*remote.MachineDetail) bool) *remote.MachineDetail {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		m, err := client.Machine(t.Context(), "vm1")
		if err == nil && is(m) {
			return m
		}
		if time.Now().After(end) {
			t.Fatalf("waited in vain for %s: %+v, %v", what, m, err)
		}
	}
}

// From a guest's disk to the verdict: a machine without the plugin is watched, gets its
// first baseline, and what is done to its files is judged, what was done while its agent
// was restarted included.
func TestDiskPathFromAgentToVerifier(t *testing.T) {
	e := tpmtest.Start(t)
	client, at := serveVerifier(t, e)
	d := newGuestDisk(t)
	content := filepath.Join(t.TempDir(), "content")
	if err := os.WriteFile(content, []byte("new content"), 0o600); err != nil {
		t.Fatal(err)
	}
	config := &Config{Name: "host1", Role: remote.RoleHost, State: t.TempDir(), At: at,
		TPM: TPMConfig{Path: e.Path, EventLog: "-", IMALog: "-", UserLog: "-"},
		Targets: []TargetConfig{{Name: "vm1", QMP: d.m.QMP, Watch: WatchConfig{Enabled: true, Source: WatchDisk, Every: "20ms"},
			Files: FilesConfig{FullEvery: 9, Resume: true}}}}
	var log logged
	stop := runAgent(t, config, &log)
	trusted := func(m *remote.MachineDetail) bool { return m.State == remote.StateTrusted && m.Files.Baseline != "" }
	becomes(t, client, "the first baseline", trusted)

	event := func(path, verdict string) func(*remote.MachineDetail) bool {
		return func(m *remote.MachineDetail) bool {
			for _, e := range m.Events {
				if e.Path == path {
					return e.Verdict == verdict && strings.HasPrefix(e.Actor, "unknown: ") && e.Since.Before(e.Time)
				}
			}
			return false
		}
	}
	d.run("write "+content+" /d0/new", "rm /d3/f3")
	becomes(t, client, "the new file", event("/d0/new", remote.VerdictAdded))
	becomes(t, client, "the removed file", event("/d3/f3", remote.VerdictRemoved))
	becomes(t, client, "its state", func(m *remote.MachineDetail) bool { return m.State == remote.StateUntrusted && m.Files.Violations >= 2 })

	stop()
	if left := d.bitmaps(); len(left) != 1 {
		t.Errorf("bitmaps besides that of the captures: %q", left)
	}
	d.run("rm /d4/f4")
	stop = runAgent(t, config, &log)
	m := becomes(t, client, "what was done while nobody watched", func(m *remote.MachineDetail) bool {
		if !log.has(`command=rescan target=vm1 reason="the watch began anew"`) {
			return false // there may be other captures on the way
		}
		for _, r := range m.Review {
			if r.Subject == "/d4/f4" {
				return true
			}
		}
		return false
	})
	if m.State != remote.StateUntrusted {
		t.Errorf("the machine is %s", m.State)
	}
	stop()
}
