package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/internal/durable"
	"github.com/plumbline-sec/plumbline/measure/check"
	"github.com/plumbline-sec/plumbline/remote"
)

// receiver is a verifier's record intake that can be away.
type receiver struct {
	mu     sync.Mutex
	away   bool
	refuse *remote.Error // what every request is answered, if any
	seqs   []uint64
	bodies [][]byte
	need   []remote.Digest
	server *httptest.Server
}

func newReceiver(t *testing.T) (*receiver, *remote.AgentClient) {
	t.Helper()
	r := &receiver{}
	r.server = httptest.NewTLSServer(r)
	t.Cleanup(r.server.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.server.Certificate().Raw})
	client, err := remote.NewAgentClient(remote.AgentOptions{Address: r.server.URL, Trust: remote.Trust{CA: ca}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(client.Close)
	return r, client
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.away {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	if r.refuse != nil {
		w.WriteHeader(r.refuse.Status)
		json.NewEncoder(w).Encode(remote.ErrorReply{Error: *r.refuse})
		return
	}
	data, _ := io.ReadAll(req.Body)
	if req.URL.Path == "/v1/agent/bodies" {
		r.bodies = append(r.bodies, data)
		return
	}
	var request remote.RecordsRequest
	if err := json.Unmarshal(data, &request); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	for _, record := range request.Records {
		r.seqs = append(r.seqs, record.Seq)
	}
	json.NewEncoder(w).Encode(remote.RecordsReply{Acked: r.seqs[len(r.seqs)-1], Need: r.need})
}

func newOutbox(t *testing.T, dir string) *outbox {
	t.Helper()
	spool, err := durable.OpenSpool(dir, durable.SpoolOptions{SegmentBytes: 512})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { spool.Close() })
	return &outbox{
		spool: spool, bodies: newBodyCache(), log: slog.New(slog.DiscardHandler),
		backoff: time.Millisecond, maxBackoff: 5 * time.Millisecond,
	}
}

// logged is what agents log.
type logged struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.text.String(), text)
}

// until waits for a text.
func (l *logged) until(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !l.has(text); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the log never had %q", text)
		}
	}
}

// An agent whose machine was retired says so, unlike one that is not known, and keeps what
// it has.
func TestRetiredIsToldFromUnknown(t *testing.T) {
	for _, c := range []struct {
		answer    *remote.Error
		says, not string
	}{
		{&remote.Error{Status: http.StatusForbidden, Code: remote.CodeRetired, Message: "m"}, retiredMessage, "evidence stays in the spool"},
		{&remote.Error{Status: http.StatusUnauthorized, Code: remote.CodeUnauth, Message: "m"}, "evidence stays in the spool", retiredMessage},
	} {
		r, client := newReceiver(t)
		r.refuse = c.answer
		o := newOutbox(t, filepath.Join(t.TempDir(), "spool"))
		var outbox, commands logged
		o.log = slog.New(slog.NewTextHandler(&outbox, nil))
		if err := put(o, remote.KindStatus, remote.Status{}); err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		a := &Agent{log: slog.New(slog.NewTextHandler(&commands, nil))}
		var running sync.WaitGroup
		running.Go(func() { o.run(ctx, client) })
		running.Go(func() { a.obey(ctx, client) })
		if outbox.until(t, c.says); outbox.has(c.not) {
			t.Errorf("%s is told as %q too", c.answer.Code, c.not)
		}
		says := c.says
		if says != retiredMessage {
			says = "no commands from the verifier"
		}
		if commands.until(t, says); commands.has(c.not) {
			t.Errorf("%s is told as %q too", c.answer.Code, c.not)
		}
		stop()
		running.Wait()
		if o.spool.Pending() != 1 {
			t.Errorf("%d records pending", o.spool.Pending())
		}
	}
}

// TestOutboxDeliversInOrderAfterOutage spools while the verifier is away,
// restarts the agent, and expects everything, once, in order.
func TestOutboxDeliversInOrderAfterOutage(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	away, client := newReceiver(t)
	away.away = true
	ctx, stop := context.WithCancel(t.Context())
	o := newOutbox(t, dir)
	done := make(chan struct{})
	go func() { o.run(ctx, client); close(done) }()
	for i := range 30 {
		if err := put(o, remote.KindStatus, remote.Status{Detail: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	<-done
	if o.spool.Pending() != 30 {
		t.Fatalf("%d records pending, want 30", o.spool.Pending())
	}
	o.spool.Close()

	// A receiver of its own: a request cut off above may still reach the old one.
	r, client := newReceiver(t)
	o = newOutbox(t, dir)
	ctx, stop = context.WithCancel(t.Context())
	defer stop()
	done = make(chan struct{})
	go func() { o.run(ctx, client); close(done) }()
	put(o, remote.KindStatus, remote.Status{Detail: "after the restart"})
	for o.spool.Pending() > 0 {
		select {
		case <-o.spool.Grown():
		case <-time.After(time.Millisecond):
		}
	}
	stop()
	<-done
	want := make([]uint64, 31)
	for i := range want {
		want[i] = uint64(i + 1)
	}
	if !slices.Equal(r.seqs, want) {
		t.Fatalf("verifier got %v", r.seqs)
	}
}

func TestOutboxSendsNeededPagesAndCountsGoneOnes(t *testing.T) {
	r, client := newReceiver(t)
	o := newOutbox(t, filepath.Join(t.TempDir(), "spool"))
	page := []byte("a page")
	o.bodies.keepScan("vm", check.Pages{check.DigestOf(page): page})
	r.need = []remote.Digest{remote.DigestOf(page), {1, 2, 3}}
	if err := put(o, remote.KindStatus, remote.Status{}); err != nil {
		t.Fatal(err)
	}
	if _, err := o.deliver(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	if len(r.bodies) != 1 {
		t.Errorf("%d bundles of bodies arrived, want 1", len(r.bodies))
	}
	gone, err := o.sendBodies(t.Context(), client, r.need)
	if err != nil || gone != 1 {
		t.Errorf("%d bodies gone, %v; want 1", gone, err)
	}
}

// TestOutboxIsNotBlockedByOneRecord: a record that the verifier would refuse,
// such as the scan of a machine that claims a million sections, must not hold up
// what stands behind it.
func TestOutboxIsNotBlockedByOneRecord(t *testing.T) {
	r, client := newReceiver(t)
	o := newOutbox(t, filepath.Join(t.TempDir(), "spool"))
	if err := put(o, remote.KindScan, &remote.Scan{Observations: make([]byte, remote.MaxRecordBytes)}); !errors.Is(err, errTooLarge) {
		t.Fatalf("put: %v", err)
	}
	// Of an earlier version that did not look.
	large, err := json.Marshal(spooled{Kind: remote.KindScan, Time: time.Now(), Body: json.RawMessage(`"` + strings.Repeat("a", remote.MaxRecordBytes) + `"`)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := o.spool.Append(large, []byte("no record")); err != nil {
		t.Fatal(err)
	}
	if err := put(o, remote.KindStatus, remote.Status{Detail: "behind"}); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := o.deliver(t.Context(), client); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(r.seqs, []uint64{3}) || o.spool.Pending() != 0 {
		t.Errorf("the verifier got %v, %d records pending", r.seqs, o.spool.Pending())
	}
}

// TestOutboxTellsWhatTheSpoolLost: a record that is damaged on disk is a gap that the
// verifier sees, and a line in the agent's log, once.
func TestOutboxTellsWhatTheSpoolLost(t *testing.T) {
	dir := t.TempDir()
	o := newOutbox(t, dir)
	for _, detail := range []string{"first", "second", "third"} {
		if err := put(o, remote.KindStatus, remote.Status{Detail: detail}); err != nil {
			t.Fatal(err)
		}
	}
	damage(t, dir, "second")
	var log bytes.Buffer
	o.log = slog.New(slog.NewTextHandler(&log, nil))
	r, client := newReceiver(t)
	r.away = true
	for range 2 {
		if _, err := o.deliver(t.Context(), client); err == nil {
			t.Fatal("delivered to a verifier that is away")
		}
	}
	r.away = false
	if _, err := o.deliver(t.Context(), client); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(r.seqs, []uint64{1, 3}) {
		t.Errorf("the verifier got %v", r.seqs)
	}
	if n := strings.Count(log.String(), "lost\" from=2 to=2"); n != 1 {
		t.Errorf("told %d times:\n%s", n, &log)
	}
}

// damage changes a byte of the spool's first segment where text is.
func damage(t *testing.T, dir, text string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("segments %q: %v", paths, err)
	}
	content, err := os.ReadFile(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(content, []byte(text))
	if at < 0 {
		t.Fatalf("%s does not hold %q", paths[0], text)
	}
	content[at] ^= 1
	if err := os.WriteFile(paths[0], content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestGuardTurnsPanicsIntoErrors(t *testing.T) {
	err := guard(func() error { panic("hostile memory") })
	if err == nil || !strings.Contains(err.Error(), "hostile memory") {
		t.Errorf("got %v", err)
	}
	if text := shortened(errors.New(strings.Repeat("a", 1<<20))); len(text) > maxReason+3 {
		t.Errorf("%d bytes", len(text))
	}
}

// A target that makes events while the verifier is away must not crowd out what
// says that it is scanned.
func TestEventsLeaveRoomForScans(t *testing.T) {
	spool, err := durable.OpenSpool(t.TempDir(), durable.SpoolOptions{MaxBytes: 64 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer spool.Close()
	o := &outbox{spool: spool, bodies: newBodyCache(), log: slog.New(slog.DiscardHandler)}
	for err == nil {
		err = put(o, remote.KindEvent, remote.Event{Target: "vm", Event: json.RawMessage(`"` + strings.Repeat("a", 1000) + `"`)})
	}
	if !errors.Is(err, durable.ErrFull) {
		t.Fatalf("events: %v", err)
	}
	if err := put(o, remote.KindScan, remote.Scan{Target: "vm", Observations: make([]byte, 8<<10)}); err != nil {
		t.Errorf("scan: %v", err)
	}
}

// A segment that the disk does not give back must not keep everything behind it for
// ever, nor be given up at once.
func TestOutboxGivesUpWhatTheDiskKeeps(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	r, client := newReceiver(t)
	o := newOutbox(t, dir)
	var log bytes.Buffer
	o.log = slog.New(slog.NewTextHandler(&log, nil))
	for i := range 30 {
		if err := put(o, remote.KindStatus, remote.Status{Detail: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	segments, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil || len(segments) < 3 {
		t.Fatalf("segments %q, %v", segments, err)
	}
	if err := os.Remove(segments[0]); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(segments[0], 0o700); err != nil { // opens, and reads give an error
		t.Fatal(err)
	}
	for try := 1; try < maxUnread; try++ {
		if _, err := o.deliver(t.Context(), client); !errors.Is(err, durable.ErrUnreadable) || o.spool.Acked() != 0 {
			t.Fatalf("try %d: %v, acknowledged %d", try, err, o.spool.Acked())
		}
	}
	for o.spool.Pending() > 0 {
		if _, err := o.deliver(t.Context(), client); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(r.seqs); n == 0 || n == 30 || r.seqs[n-1] != 30 {
		t.Errorf("delivered %v", r.seqs)
	}
	if want := fmt.Sprintf("from=1 to=%d", r.seqs[0]-1); strings.Count(log.String(), want) != 1 {
		t.Errorf("the log does not say once %q:\n%s", want, log.String())
	}
}
