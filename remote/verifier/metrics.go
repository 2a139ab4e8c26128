package verifier

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics are the verifier's counters, and its machines' states read from the
// store when they are asked for.
type metrics struct {
	registry *prometheus.Registry
	records  prometheus.Counter
	lost     prometheus.Counter
	bodies   prometheus.Counter
	events   *prometheus.CounterVec // by level
	scans    *prometheus.CounterVec // by outcome
	refused  *prometheus.CounterVec // by what
	alerts   *prometheus.CounterVec // by result
}

func newMetrics(v *Verifier) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "plumbline", Name: name, Help: help})
	}
	vector := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "plumbline", Name: name, Help: help}, []string{label})
	}
	m := &metrics{
		registry: prometheus.NewRegistry(),
		records:  counter("records_total", "Records stored durably."),
		lost:     counter("lost_records_total", "Records of agents that never arrived, by their numbers."),
		bodies:   counter("bodies_total", "Bodies received."),
		events:   vector("file_events_total", "File events judged, by level.", "level"),
		scans:    vector("scans_total", "Scans ended, by outcome.", "outcome"),
		refused:  vector("refused_total", "Requests and records refused, by what they were.", "what"),
		alerts:   vector("alerts_total", "Alerts told, by result.", "result"),
	}
	m.registry.MustRegister(m.records, m.lost, m.bodies, m.events, m.scans, m.refused, m.alerts, &machineMetrics{v})
	return m
}

// getMetrics is GET /metrics, for the holder of the token.
func (v *Verifier) getMetrics() http.Handler {
	serve := promhttp.HandlerFor(v.metrics.registry, promhttp.HandlerOpts{})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := v.personOf(r); err != nil {
			v.answerError(w, r, err)
			return
		}
		serve.ServeHTTP(w, r)
	})
}

// machineMetrics tells each machine's state and when each duty was last tried
// and last done.
type machineMetrics struct{ v *Verifier }

var (
	stateDesc   = prometheus.NewDesc("plumbline_machine_state", "1 for the machine's present state.", []string{"machine", "state"}, nil)
	attemptDesc = prometheus.NewDesc("plumbline_last_attempt_timestamp_seconds", "When a duty was last tried.", []string{"machine", "duty"}, nil)
	successDesc = prometheus.NewDesc("plumbline_last_success_timestamp_seconds", "When a duty last brought evidence.", []string{"machine", "duty"}, nil)
	openDesc    = prometheus.NewDesc("plumbline_open_violations", "File changes that wait for a decision.", []string{"machine"}, nil)
)

// Describe implements prometheus.Collector.
func (c *machineMetrics) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{stateDesc, attemptDesc, successDesc, openDesc} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *machineMetrics) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	machines, err := c.v.Machines(ctx)
	if err != nil {
		c.v.log.Error("collect metrics", "error", err)
		return
	}
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	at := func(d *prometheus.Desc, t time.Time, labels ...string) {
		if !t.IsZero() {
			gauge(d, float64(t.UnixMilli())/1000, labels...)
		}
	}
	for _, m := range machines {
		gauge(stateDesc, 1, m.Name, string(m.State))
		gauge(openDesc, float64(m.Files.Violations), m.Name)
		at(attemptDesc, m.Boot.LastAttempt, m.Name, "attestation")
		at(successDesc, m.Boot.LastSuccess, m.Name, "attestation")
		at(attemptDesc, m.Scan.LastAttempt, m.Name, "scan")
		at(successDesc, m.Scan.LastSuccess, m.Name, "scan")
	}
}
