//go:build bench

package verifier

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/remote"
)

// TestBenchRecords is how many file events a verifier takes in durably over
// HTTPS, from several agents at once, a hundred to a request.
func TestBenchRecords(t *testing.T) {
	const agents, requests, each = 8, 10, 100
	r := start(t, twoMachines)
	var all []*softAgent
	for i := range agents {
		all = append(all, r.enrol(t, fmt.Sprintf("bench%d", i), remote.RoleHost))
	}
	var wg sync.WaitGroup
	began := time.Now()
	for _, a := range all {
		wg.Go(func() {
			for range requests {
				var batch []remote.Record
				for range each {
					a.seq++
					batch = append(batch, a.record(a.seq, remote.KindStatus, remote.Status{State: remote.AgentRunning}))
				}
				if _, err := a.Send(t.Context(), "s", batch); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	seconds := time.Since(began).Seconds()
	fmt.Printf("bench verifier.records %.0f records/s\n", agents*requests*each/seconds)
}
