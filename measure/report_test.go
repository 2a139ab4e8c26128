package measure_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/measure"
)

// The shape that scripts are written against: every check has its coverage and
// its findings, also where there are none.
func TestReportInJSON(t *testing.T) {
	r := measure.Report{
		Target: measure.Target{Kind: "vm"}, Outcome: measure.Fail, PauseMS: 1.5, ElapsedMS: 20,
		Checks: []measure.Check{
			{Name: "linux.text", Outcome: measure.Pass, Coverage: measure.Coverage{Bytes: 4096, Objects: 1}},
			{Name: "linux.idt", Outcome: measure.NotMeasured, Reason: "why"},
			{Name: "linux.gdt", Outcome: measure.Fail, Findings: []measure.Finding{{Address: "0x1", Explanation: "what"}}},
		},
	}
	got, err := json.Marshal(&r)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"target":{"kind":"vm"},"outcome":"fail","pause_ms":1.5,"elapsed_ms":20,"kernel":{},"checks":[` +
		`{"name":"linux.text","outcome":"pass","coverage":{"bytes":4096,"objects":1},"findings":[]},` +
		`{"name":"linux.idt","outcome":"not-measured","reason":"why","coverage":{"bytes":0,"objects":0},"findings":[]},` +
		`{"name":"linux.gdt","outcome":"fail","coverage":{"bytes":0,"objects":0},"findings":[{"address":"0x1","explanation":"what"}]}]}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Error(diff)
	}
}
