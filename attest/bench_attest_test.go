//go:build bench

package attest_test

import (
	"bytes"
	"fmt"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/attest"
)

// TestBenchAttest prints what a verifier pays for one machine: the whole
// appraisal of the lab's boot, the signature alone, and a list of 100,000 files.
func TestBenchAttest(t *testing.T) {
	ev, policy := labEvidence(t), labPolicy(t)
	opts := attest.VerifyOptions{Nonce: labNonce, AK: ev.AK}
	judge := func(ev *attest.Evidence) func() {
		return func() {
			if r, err := attest.Verify(ev, policy, opts); err != nil || r.Outcome == attest.Incomplete {
				t.Fatalf("%v, %v", r, err)
			}
		}
	}
	figure("attest.verify", 200, judge(ev))
	figure("attest.quote", 500, func() {
		if _, err := attest.VerifyQuote(ev.AK, ev.Quote, ev.Signature, labNonce); err != nil {
			t.Fatal(err)
		}
	})
	long := *ev
	size := entrySize(ev.IMALog)
	long.IMALog = append(bytes.Clone(ev.IMALog[:size]), bytes.Repeat(ev.IMALog[size:size+entrySize(ev.IMALog[size:])], 100_000)...)
	figure("attest.ima-100k", 3, judge(&long))
}

// figure prints the mean time of n runs as a line that scripts read.
func figure(name string, n int, run func()) {
	start := time.Now()
	for range n {
		run()
	}
	fmt.Printf("bench %s %.3f ms\n", name, float64(time.Since(start).Microseconds())/1000/float64(n))
}
