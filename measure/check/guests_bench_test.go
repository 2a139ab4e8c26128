//go:build bench

package check_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/internal/lab"
	"github.com/plumbline-sec/plumbline/measure"
)

// TestBenchGuests prints how long a machine that runs guests of its own stands still
// at a time, and in all for one scan, in which registers are read at stops of their
// own. What cannot be read, as CPUs were entering or leaving a guest at each look, is
// not measured: of how many scans that is so of those that are judged, is told.
func TestBenchGuests(t *testing.T) {
	files := t.TempDir()
	if err := buildGuestFiles(files); err != nil {
		t.Fatal(err)
	}
	m := lab.StartT(t, lab.Options{Files: files})
	runGuests(t, m, "spin io hlt")
	b := benchOf(t, m)
	const judged = 50
	outcomes := make(map[measure.Outcome]int)
	var longest, total []time.Duration
	for end := time.Now().Add(pausesWithin); len(longest) < judged || len(longest) < 500 && time.Now().Before(end); {
		result := b.observe(t)
		longest = append(longest, result.pause())
		total = append(total, time.Duration(result.Observations.TotalPauseNS))
		if len(longest) > judged {
			continue
		}
		report := b.judge(t, result)
		if outcomes[report.Outcome]++; report.Outcome == measure.Fail {
			fatalReport(t, report)
		}
	}
	fmt.Printf("with guests that compute, leave by a port and halt: %d of %d scans pass, %d are incomplete\n",
		outcomes[measure.Pass], judged, outcomes[measure.Incomplete])
	printPauses("measure.guests.pause", longest)
	printPauses("measure.guests.total-pause", total)
}
