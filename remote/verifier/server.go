package verifier

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/plumbline-sec/plumbline/internal/durable"
	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/console"
)

// Handler serves the API and the console.
func (v *Verifier) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /v1/enrol", v.api(v.handleEnrol))
	mux.Handle("POST /v1/enrol/{id}", v.api(v.handleAnswer))

	mux.Handle("GET /v1/agent/commands", v.api(v.handleCommands))
	mux.Handle("POST /v1/agent/records", v.api(v.handleRecords))
	mux.Handle("PUT /v1/agent/bodies/{digest}", v.api(v.handleBody))
	mux.Handle("POST /v1/agent/bodies", v.api(v.handleBundle))

	mux.Handle("GET /v1/hosts", v.person(v.getMachines))
	mux.Handle("GET /v1/hosts/{name}", v.person(v.getMachine))
	mux.Handle("POST /v1/hosts/{name}/scan", v.person(v.postScan))
	mux.Handle("POST /v1/hosts/{name}/attest", v.person(v.postAttest))
	mux.Handle("POST /v1/hosts/{name}/baseline", v.person(v.postBaseline))
	mux.Handle("POST /v1/hosts/{name}/retire", v.person(v.postRetire))
	mux.Handle("POST /v1/hosts/{name}/readmit", v.person(v.postReadmit))
	mux.Handle("GET /v1/retired", v.person(v.getRetired))
	mux.Handle("GET /v1/scans/{id}", v.person(v.getScan))
	mux.Handle("GET /v1/events", v.person(v.getEvents))
	mux.Handle("GET /v1/review", v.person(v.getReviews))
	mux.Handle("POST /v1/review/{id}", v.person(v.postReview))
	mux.HandleFunc("GET /v1/stream", v.getStream)
	mux.Handle("/v1/", v.api(func(http.ResponseWriter, *http.Request) (any, error) { return nil, notFound("this path") }))

	mux.Handle("GET /metrics", v.getMetrics())
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.Handle("/", console.New(consoleOf{v}))
	return headers(timely(mux, bodyTime, bulkBodyTime))
}

// How long the body of a request may take to arrive: agents send bulk, anybody
// else a few lines.
const (
	bodyTime     = 15 * time.Second
	bulkBodyTime = 5 * time.Minute
)

// timely ends requests whose body does not arrive in time: it costs a stranger
// nothing to send a byte now and then. A long poll has no body to wait for.
func timely(next http.Handler, anybody, agents time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Body != nil && r.ContentLength != 0 {
			limit := anybody
			if strings.HasPrefix(r.URL.Path, "/v1/agent/") {
				limit = agents
			}
			control := http.NewResponseController(w)
			// A writer without deadlines is not a connection.
			if control.SetReadDeadline(time.Now().Add(limit)) == nil {
				r.Body = &timelyBody{r.Body, control}
			}
		}
		next.ServeHTTP(w, r)
	})
}

// timelyBody takes the deadline away with the end of the body: handling what was
// sent may take longer.
type timelyBody struct {
	io.ReadCloser
	control *http.ResponseController
}

// Read implements io.Reader.
func (b *timelyBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.control.SetReadDeadline(time.Time{})
	}
	return n, err
}

// headers are for every answer.
func headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Strict-Transport-Security", "max-age=31536000")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		next.ServeHTTP(w, r)
	})
}

// Serving is where a verifier listens and what a client of the same machine
// needs to know; it is kept in the state directory as client.json.
type Serving struct {
	Address     string `json:"address"`     // https://HOST:PORT
	CA          string `json:"ca"`          // file
	Fingerprint string `json:"fingerprint"` // of the authority
	Token       string `json:"token_file"`
	Password    string `json:"password_file"`
	// FirstPassword is set in the process that made it.
	FirstPassword string `json:"-"`
}

// ClientFile is the name of the file that tells clients of the same machine
// where the verifier is.
const ClientFile = "client.json"

// Serve listens and works until ctx ends. It calls ready once requests are
// answered.
func (v *Verifier) Serve(ctx context.Context, ready func(Serving)) error {
	address := v.config.Listen
	if address == "" {
		address = "127.0.0.1:8443"
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	tlsConfig, err := v.tlsConfig(listener.Addr())
	if err != nil {
		listener.Close()
		return err
	}
	serving := v.serving(listener.Addr())
	data, err := json.MarshalIndent(serving, "", "  ")
	if err == nil {
		err = durable.WriteFile(filepath.Join(v.state, ClientFile), append(data, '\n'), 0o600)
	}
	if err != nil {
		listener.Close()
		return err
	}
	if err := v.introduce(ctx); err != nil {
		listener.Close()
		return err
	}
	work, stop := context.WithCancel(context.Background())
	defer stop()
	worked := make(chan struct{})
	go func() {
		defer close(worked)
		v.work(work)
	}()
	server := &http.Server{
		Handler: v.Handler(), TLSConfig: tlsConfig,
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(v.log.Handler(), slog.LevelDebug),
	}
	served := make(chan error, 1)
	go func() { served <- server.ServeTLS(listener, "", "") }()
	ready(serving)
	select {
	case <-ctx.Done():
	case err = <-served:
	}
	v.hub.close() // ends streams and long polls
	last, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if server.Shutdown(last) != nil {
		server.Close()
	}
	stop()
	<-worked
	return err
}

// tlsConfig asks for client certificates without insisting: a stranger may
// enrol, a person shows none, and a certificate that is not ours is answered
// by an error that says so instead of a broken handshake.
func (v *Verifier) tlsConfig(at net.Addr) (*tls.Config, error) {
	names := append([]string{"localhost", "127.0.0.1", "::1"}, v.config.Names...)
	if host, _, err := net.SplitHostPort(at.String()); err == nil {
		if ip := net.ParseIP(host); ip != nil && !ip.IsUnspecified() {
			names = append(names, host)
		}
	}
	if name, err := os.Hostname(); err == nil && remote.CheckName(name) == nil {
		names = append(names, name)
	}
	cert, err := v.authority.serverCertificate(names)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(v.authority.cert)
	return &tls.Config{
		Certificates: []tls.Certificate{cert},
		MinVersion:   tls.VersionTLS13,
		ClientAuth:   tls.RequestClientCert,
		ClientCAs:    pool, // named to clients, so that browsers do not offer others
	}, nil
}

func (v *Verifier) serving(at net.Addr) Serving {
	host, port, _ := net.SplitHostPort(at.String())
	if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
		host = "localhost"
	}
	abs := func(name string) string {
		path, err := filepath.Abs(filepath.Join(v.state, name))
		if err != nil {
			return filepath.Join(v.state, name)
		}
		return path
	}
	return Serving{
		Address: "https://" + net.JoinHostPort(host, port), CA: abs("ca.pem"), Token: abs(tokenFile), Password: abs(passwordFile),
		Fingerprint: v.fingerprint(), FirstPassword: v.people.firstTime,
	}
}

// fingerprint is that of the authority, which agents are given.
func (v *Verifier) fingerprint() string { return remote.Fingerprint(v.authority.cert.Raw) }
