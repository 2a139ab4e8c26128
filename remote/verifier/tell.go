package verifier

import (
	"context"
	"fmt"
	"time"

	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/alert"
	"github.com/plumbline-sec/plumbline/remote/store"
)

const (
	// outboxEvery is how often the outbox is looked at without a change.
	outboxEvery = 10 * time.Second
	// outboxLife is how long an alert is tried before it is given up.
	outboxLife = 24 * time.Hour
	tellAtOnce = 100
)

// openSinks makes the sinks of the configuration, nil if it has none.
func openSinks(configs []AlertConfig) (*alert.Sinks, error) {
	if len(configs) == 0 {
		return nil, nil
	}
	var sinks alert.Sinks
	for _, c := range configs {
		secret := ""
		if c.SecretFile != "" {
			var err error
			if secret, err = firstLine(c.SecretFile); err != nil {
				return nil, err
			}
		}
		sink, err := alert.Open(alert.Options{Kind: c.Kind, URL: c.URL, Secret: secret, Severity: remote.Severity(c.Severity)})
		if err != nil {
			return nil, fmt.Errorf("alert %s: %w", c.URL, err)
		}
		sinks = append(sinks, sink)
	}
	return &sinks, nil
}

// tellAlerts empties the outbox: what was stored with its cause is told at
// least once, also after a restart. A sink that fails is tried again.
func (v *Verifier) tellAlerts(ctx context.Context) {
	if v.alerts == nil {
		return
	}
	for ctx.Err() == nil {
		failed, err := v.tellSome(ctx)
		if err != nil && ctx.Err() == nil {
			v.log.Error("tell alerts", "error", err)
		}
		waiting, cancel := context.WithTimeout(ctx, outboxEvery)
		if failed || err != nil {
			<-waiting.Done()
		} else {
			changed, done := v.hub.listen()
			wait(waiting, changed, func(c store.Change) bool { return c.Collection == inOutbox })
			done()
		}
		cancel()
	}
}

func (v *Verifier) tellSome(ctx context.Context) (failed bool, err error) {
	docs, err := list[remote.Moment](ctx, v.store, store.Query{Collection: inOutbox, Limit: tellAtOnce})
	if err != nil {
		return false, err
	}
	for i := len(docs) - 1; i >= 0; i-- { // oldest first
		d := docs[i]
		result := "told"
		if err := v.alerts.Send(ctx, d.V); err != nil {
			v.log.Warn("alert was not delivered", "id", d.Key, "error", err)
			if failed = true; v.now().Sub(d.Time) < outboxLife {
				continue
			}
			result = "given up"
		}
		v.metrics.alerts.WithLabelValues(result).Inc()
		if err := v.store.Apply(ctx, nil, remove(inOutbox, d.Key)); err != nil {
			return failed, err
		}
	}
	return failed, nil
}
