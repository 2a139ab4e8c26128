package remote

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// AgentOptions say where the verifier is and who the agent is.
type AgentOptions struct {
	Address string // https://HOST:PORT
	Trust   Trust
	// Certificate is the client certificate of a finished enrolment; nil
	// before it, when only the two enrolment calls are allowed.
	Certificate *tls.Certificate
}

// AgentClient is an agent's side of the API. Its methods may be called from
// several goroutines. Nothing is retried here: the agent's spool decides.
type AgentClient struct {
	c *caller
}

// NewAgentClient checks the options; it does not connect.
func NewAgentClient(opts AgentOptions) (*AgentClient, error) {
	c, err := newCaller(opts.Address, opts.Trust, opts.Certificate)
	if err != nil {
		return nil, err
	}
	return &AgentClient{c}, nil
}

// Enrol asks for a challenge (POST /v1/enrol).
func (a *AgentClient) Enrol(ctx context.Context, req *EnrolRequest) (*EnrolChallenge, error) {
	var reply EnrolChallenge
	if err := a.c.json(ctx, http.MethodPost, "/v1/enrol", req, &reply); err != nil {
		return nil, err
	}
	return &reply, nil
}

// Answer proves the challenge (POST /v1/enrol/{id}). Call it again after a
// while as long as the state is EnrolWaiting.
func (a *AgentClient) Answer(ctx context.Context, id string, secret []byte) (*EnrolResult, error) {
	var reply EnrolResult
	path := "/v1/enrol/" + url.PathEscape(id)
	if err := a.c.json(ctx, http.MethodPost, path, &EnrolAnswer{Secret: secret}, &reply); err != nil {
		return nil, err
	}
	return &reply, nil
}

// Commands returns what the verifier asks for after command after, waiting up
// to wait (at most a minute) for something to do. An empty answer is no error.
func (a *AgentClient) Commands(ctx context.Context, after uint64, wait time.Duration) ([]Command, error) {
	var reply Commands
	path := fmt.Sprintf("/v1/agent/commands?after=%d&wait=%d", after, int(wait.Seconds()))
	if err := a.c.json(ctx, http.MethodGet, path, nil, &reply); err != nil {
		return nil, err
	}
	return reply.Commands, nil
}

// Send delivers records of a spool in order. When it returns without an error, all up to
// the reply's Acked are durable at the verifier. Sending them again is
// harmless.
func (a *AgentClient) Send(ctx context.Context, spool string, records []Record) (*RecordsReply, error) {
	var reply RecordsReply
	req := RecordsRequest{Spool: spool, Records: records}
	if err := a.c.json(ctx, http.MethodPost, "/v1/agent/records", &req, &reply); err != nil {
		return nil, err
	}
	return &reply, nil
}

// PutBody stores a body under its digest. It is durable when PutBody returns;
// storing it again is harmless.
func (a *AgentClient) PutBody(ctx context.Context, body []byte) (Digest, error) {
	digest := DigestOf(body)
	resp, err := a.c.do(ctx, http.MethodPut, "/v1/agent/bodies/"+digest.String(), "application/octet-stream", bytes.NewReader(body))
	if err != nil {
		return Digest{}, err
	}
	return digest, resp.Body.Close()
}

// PutBodies stores many small bodies in one request (POST /v1/agent/bodies),
// such as the pages of a need list: at most MaxBundle of them and MaxBodyBytes
// in all. They are durable when it returns.
func (a *AgentClient) PutBodies(ctx context.Context, bodies [][]byte) error {
	bundle := EncodeBundle(bodies)
	resp, err := a.c.do(ctx, http.MethodPost, "/v1/agent/bodies", "application/octet-stream", bytes.NewReader(bundle))
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// Close ends idle connections.
func (a *AgentClient) Close() { a.c.http.CloseIdleConnections() }
