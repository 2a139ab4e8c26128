package remote

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
)

// ClientOptions say where the verifier is and who asks.
type ClientOptions struct {
	Address string // https://HOST:PORT
	Trust   Trust
	Token   string // bearer token
}

// Client is a person's or a script's side of the API.
type Client struct {
	c *caller
}

// NewClient checks the options; it does not connect.
func NewClient(opts ClientOptions) (*Client, error) {
	c, err := newCaller(opts.Address, opts.Trust, nil)
	if err != nil {
		return nil, err
	}
	c.token = opts.Token
	return &Client{c}, nil
}

// Machines lists the fleet (GET /v1/hosts), sorted by name.
func (c *Client) Machines(ctx context.Context) ([]Machine, error) {
	var reply struct {
		Hosts []Machine `json:"hosts"`
	}
	err := c.c.json(ctx, http.MethodGet, "/v1/hosts", nil, &reply)
	return reply.Hosts, err
}

// Machine returns one machine with its recent history.
func (c *Client) Machine(ctx context.Context, name string) (*MachineDetail, error) {
	var reply MachineDetail
	if err := c.c.json(ctx, http.MethodGet, "/v1/hosts/"+url.PathEscape(name), nil, &reply); err != nil {
		return nil, err
	}
	return &reply, nil
}

// Retired lists the machines that were taken out of service (GET /v1/retired), newest
// first.
func (c *Client) Retired(ctx context.Context) ([]Machine, error) {
	var reply struct {
		Retired []Machine `json:"retired"`
	}
	err := c.c.json(ctx, http.MethodGet, "/v1/retired", nil, &reply)
	return reply.Retired, err
}

// Retire takes a machine out of service: its history stays readable under the ID that
// is returned.
func (c *Client) Retire(ctx context.Context, name, reason string) (*Retirement, error) {
	var reply Retirement
	if err := c.c.json(ctx, http.MethodPost, "/v1/hosts/"+url.PathEscape(name)+"/retire", &Justified{Reason: reason}, &reply); err != nil {
		return nil, err
	}
	return &reply, nil
}

// Readmit takes the name of a retired machine back into service, as that of one of
// which nothing is known yet.
func (c *Client) Readmit(ctx context.Context, name, reason string) error {
	return c.c.json(ctx, http.MethodPost, "/v1/hosts/"+url.PathEscape(name)+"/readmit", &Justified{Reason: reason}, nil)
}

// StartScan fires a scan of the machine through its BMC and returns it as
// fired; ask for it with Scan.
func (c *Client) StartScan(ctx context.Context, name string) (*ScanEntry, error) {
	var reply ScanEntry
	if err := c.c.json(ctx, http.MethodPost, "/v1/hosts/"+url.PathEscape(name)+"/scan", nil, &reply); err != nil {
		return nil, err
	}
	return &reply, nil
}

// StartAttestation asks the machine's agent to attest its boot now.
func (c *Client) StartAttestation(ctx context.Context, name string) error {
	return c.c.json(ctx, http.MethodPost, "/v1/hosts/"+url.PathEscape(name)+"/attest", nil, nil)
}

// StartBaseline asks for a new baseline of the machine's files.
func (c *Client) StartBaseline(ctx context.Context, name string) error {
	return c.c.json(ctx, http.MethodPost, "/v1/hosts/"+url.PathEscape(name)+"/baseline", nil, nil)
}

// Scan returns one scan. With wait above 0 the verifier holds the answer for
// up to that many seconds (at most 60) until the scan is done.
func (c *Client) Scan(ctx context.Context, id string, wait int) (*ScanEntry, error) {
	var reply ScanEntry
	path := "/v1/scans/" + url.PathEscape(id) + "?wait=" + strconv.Itoa(wait)
	if err := c.c.json(ctx, http.MethodGet, path, nil, &reply); err != nil {
		return nil, err
	}
	return &reply, nil
}

// EventQuery narrows Events. The zero value asks for the newest 100.
type EventQuery struct {
	Machine string
	Level   string // protect, verify, record; empty for all
	Before  string // ID of an event: only older ones
	Limit   int    // default 100, at most 1000
}

// Values are the query's parameters in a URL.
func (q EventQuery) Values() url.Values {
	v := url.Values{}
	for name, value := range map[string]string{"host": q.Machine, "level": q.Level, "before": q.Before} {
		if value != "" {
			v.Set(name, value)
		}
	}
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	return v
}

// Events lists file events, newest first.
func (c *Client) Events(ctx context.Context, q EventQuery) ([]FileEvent, error) {
	var reply struct {
		Events []FileEvent `json:"events"`
	}
	err := c.c.json(ctx, http.MethodGet, "/v1/events?"+q.Values().Encode(), nil, &reply)
	return reply.Events, err
}

// Reviews lists what waits for a person, newest first. State is "open",
// "accepted", "rejected" or empty for all.
func (c *Client) Reviews(ctx context.Context, state string) ([]Review, error) {
	var reply struct {
		Review []Review `json:"review"`
	}
	err := c.c.json(ctx, http.MethodGet, "/v1/review?state="+url.QueryEscape(state), nil, &reply)
	return reply.Review, err
}

// Decide accepts or rejects one item; the decision is kept with its author.
func (c *Client) Decide(ctx context.Context, id string, d Decision) (*Review, error) {
	var reply Review
	if err := c.c.json(ctx, http.MethodPost, "/v1/review/"+url.PathEscape(id), &d, &reply); err != nil {
		return nil, err
	}
	return &reply, nil
}
