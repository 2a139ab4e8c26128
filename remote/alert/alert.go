// Package alert tells the outside world what the verifier found: a signed
// generic webhook and syslog (RFC 5424).
//
// A sink is told once per call of Send and retries nothing; the verifier keeps
// an outbox and calls again. An alert may therefore arrive twice: its id tells.
package alert

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"

	"github.com/plumbline-sec/plumbline/remote"
)

// ErrOptions is returned for options that cannot be used.
var ErrOptions = errors.New("alert sink cannot be used")

// Options describe one sink.
type Options struct {
	Kind     string // "webhook" or "syslog"
	URL      string // webhook: http(s)://...; syslog: udp://HOST:514, tcp://HOST:601 or unix:///dev/log
	Secret   string // webhook: key of the signature, required
	Severity remote.Severity
}

// Sink is one place that is told.
type Sink struct {
	lowest remote.Severity
	send   func(context.Context, remote.Moment) error
}

// Sinks are several.
type Sinks []*Sink

// order of severities, rising.
var order = []remote.Severity{remote.SeverityInfo, remote.SeverityNotice, remote.SeverityWarning, remote.SeverityAlert}

// Open checks the options; it does not connect. The lowest severity told is
// warning unless the options say otherwise.
func Open(o Options) (*Sink, error) {
	if o.Severity == "" {
		o.Severity = remote.SeverityWarning
	}
	if !slices.Contains(order, o.Severity) {
		return nil, fmt.Errorf("%w: severity %q", ErrOptions, o.Severity)
	}
	target, err := url.Parse(o.URL)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOptions, err)
	}
	sink := &Sink{lowest: o.Severity}
	switch o.Kind {
	case "webhook":
		sink.send, err = newWebhook(target, o.Secret)
	case "syslog":
		sink.send, err = newSyslog(target)
	default:
		err = fmt.Errorf("%w: kind %q, want webhook or syslog", ErrOptions, o.Kind)
	}
	if err != nil {
		return nil, err
	}
	return sink, nil
}

// Send tells m unless it matters less than the sink wants to know.
func (s *Sink) Send(ctx context.Context, m remote.Moment) error {
	if slices.Index(order, m.Severity) < slices.Index(order, s.lowest) {
		return nil
	}
	return s.send(ctx, m)
}

// Send tells every sink and returns what went wrong with any.
func (s Sinks) Send(ctx context.Context, m remote.Moment) error {
	var errs []error
	for _, sink := range s {
		errs = append(errs, sink.Send(ctx, m))
	}
	return errors.Join(errs...)
}
