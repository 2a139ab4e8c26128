package alert

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/remote"
)

const secret = "a secret of some length"

var moment = remote.Moment{ID: "1", Time: time.Date(2026, 3, 1, 12, 0, 0, 5000, time.UTC), Machine: "vm1", Kind: "file",
	Severity: remote.SeverityAlert, Text: "/etc/x\n<1>1 forged \"line\" ]"}

func open(t *testing.T, o Options) *Sink {
	t.Helper()
	sink, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return sink
}

func TestWebhookIsSigned(t *testing.T) {
	var got remote.Moment
	var signed bool
	answer := http.StatusNoContent
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		signed = r.Header.Get(HeaderSignature) == Sign(secret, r.Header.Get(HeaderTimestamp), body) && r.Header.Get(HeaderTimestamp) != ""
		if err := json.Unmarshal(body, &got); err != nil {
			t.Error(err)
		}
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(answer)
	}))
	defer server.Close()
	sink := open(t, Options{Kind: "webhook", URL: server.URL, Secret: secret})
	if err := sink.Send(t.Context(), moment); err != nil || !signed {
		t.Errorf("Send: %v, signed %t", err, signed)
	}
	if diff := cmp.Diff(moment, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, answer = range []int{http.StatusInternalServerError, http.StatusFound, http.StatusUnauthorized} {
		if err := sink.Send(t.Context(), moment); err == nil {
			t.Errorf("answer %d was taken for delivered", answer)
		}
	}
}

func TestSeverity(t *testing.T) {
	sent := 0
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { sent++ }))
	defer server.Close()
	sink := open(t, Options{Kind: "webhook", URL: server.URL, Secret: secret})
	for _, s := range order {
		m := moment
		m.Severity = s
		if err := sink.Send(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	if sent != 2 {
		t.Errorf("%d alerts were told, want those of warning and alert", sent)
	}
}

func TestSyslog(t *testing.T) {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	sink := open(t, Options{Kind: "syslog", URL: "udp://" + conn.LocalAddr().String()})
	if err := sink.Send(t.Context(), moment); err != nil {
		t.Fatal(err)
	}
	conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	buffer := make([]byte, 4096)
	n, _, err := conn.ReadFrom(buffer)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(buffer[:n]); !strings.HasPrefix(got, "<105>1 2026-03-01T12:00:00.000005Z ") || strings.Contains(got, "\n") {
		t.Errorf("message %q", got)
	}
}

// A file's name must not begin a message, or end the structured data.
func TestFormatKeepsToOneMessage(t *testing.T) {
	m := moment
	m.Machine = `vm"] [forged x="y`
	got := Format("host name", m)
	for _, want := range []string{` hostname plumbline `, `machine="vm\"\] [forged x=\"y"`, "/etc/x\ufffd<1>1 forged"} {
		if !strings.Contains(got, want) {
			t.Errorf("message %q lacks %q", got, want)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, o := range []Options{
		{}, {Kind: "pigeon", URL: "https://a/"}, {Kind: "webhook", URL: "ftp://a/", Secret: secret}, {Kind: "webhook", URL: "https://a/", Secret: "short"},
		{Kind: "syslog", URL: "udp://nowhere"}, {Kind: "syslog", URL: "http://a:1"}, {Kind: "syslog", URL: "udp://a:1", Severity: "loud"},
	} {
		if sink, err := Open(o); sink != nil || !errors.Is(err, ErrOptions) {
			t.Errorf("Open(%+v) = %v, %v", o, sink, err)
		}
	}
}
