package verifier

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store/sqlite"
)

func TestMain(m *testing.M) {
	if state := os.Getenv("VERIFIER_TEST_STATE"); state != "" {
		serveChild(state)
	}
	os.Exit(m.Run())
}

// serveChild is a verifier in a process of its own.
func serveChild(state string) {
	config, err := ParseConfig([]byte(twoMachines), state)
	if err == nil {
		var db *sqlite.Store
		if db, err = sqlite.Open(filepath.Join(state, "verifier.db")); err == nil {
			var v *Verifier
			if v, err = New(Options{Config: config, Store: db, State: state}); err == nil {
				err = v.Serve(context.Background(), func(s Serving) { fmt.Println(s.Address) })
			}
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// A verifier killed in the middle of a stream has every record that it
// acknowledged, and the next process works them off: nothing twice, nothing
// lost.
func TestKilledVerifierLosesNoAcknowledgedEvent(t *testing.T) {
	state := t.TempDir()
	certificate, trust := enrolIn(t, state)
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), "VERIFIER_TEST_STATE="+state)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		child.Process.Kill()
		child.Wait()
		t.Fatal("the child serves nothing")
	}
	agent, err := remote.NewAgentClient(remote.AgentOptions{Address: lines.Text(), Trust: trust, Certificate: certificate})
	if err != nil {
		t.Fatal(err)
	}
	var acked uint64
	for seq := uint64(1); ; seq++ {
		reply, err := agent.Send(t.Context(), "s", []remote.Record{eventRecord(t, seq)})
		if err != nil {
			break // the child is dead
		}
		if acked = reply.Acked; acked == 50 {
			go child.Process.Kill() // while the next ones are under way
		}
		if acked > 10000 {
			t.Fatal("the child does not die")
		}
	}
	child.Wait()
	r := startIn(t, state, twoMachines)
	eventually(t, "all acknowledged events", func() bool { return uint64(r.machine(t, "vm1").Files.Events) >= acked })
	events, err := r.client.Events(t.Context(), remote.EventQuery{Machine: "vm1", Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range events {
		if want := uint64(len(events) - i); e.Sequence != want {
			t.Fatalf("event %d from the end has number %d, want %d", i, e.Sequence, want)
		}
	}
	if m := r.machine(t, "vm1"); !m.Files.Watched || m.Files.Events > int64(acked)+1 {
		t.Errorf("%d events were acknowledged, %d are counted", acked, m.Files.Events)
	}
}

// enrolIn makes an agent for host1 in a state directory.
func enrolIn(t *testing.T, state string) (*tls.Certificate, remote.Trust) {
	t.Helper()
	r := &running{state: state}
	config, db := prepared(t, state, twoMachines)
	defer db.Close()
	var err error
	if r.Verifier, err = New(Options{Config: config, Store: db, State: state}); err != nil {
		t.Fatal(err)
	}
	r.serving = Serving{Address: "https://127.0.0.1:1", CA: filepath.Join(state, "ca.pem")}
	a := r.enrol(t, "host1", remote.RoleHost)
	return a.certificate, r.trust(t)
}

func eventRecord(t *testing.T, seq uint64) remote.Record {
	t.Helper()
	body, err := json.Marshal(remote.Event{Target: "vm1", Stream: "w", Sequence: seq, Event: json.RawMessage(fmt.Sprintf(
		`{"class_uid":1001,"operation":"exec","time_dt":%q,"actor":{"unknown":"test"},"file":{"path":"/bin/true","type":"file","inode":1},"level":"verify"}`,
		time.Unix(1.8e9+int64(seq), 0).UTC().Format(time.RFC3339)))})
	if err != nil {
		t.Fatal(err)
	}
	return remote.Record{Seq: seq, Kind: remote.KindEvent, Time: time.Now(), Body: body}
}
