package measure

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWriteText(t *testing.T) {
	r := Report{
		Target:  Target{Kind: "vm", Name: "web-1"},
		PauseMS: 1.84, ElapsedMS: 141.2,
		Kernel: Kernel{Release: "6.1.0-56-amd64", BuildID: "eb4f", TextBase: "0xffffffff81000000", Slide: "0x0", Levels: 4, CPUs: 2},
		Checks: []Check{
			{Name: "linux.idt", Outcome: Fail, Coverage: Coverage{Objects: 256, Bytes: 4096}, Findings: []Finding{{
				Address: "0xfffffe0000000800", Symbol: "idt[0x80]", Observed: "0x1", Expected: "asm_int80", Explanation: "goes elsewhere",
			}}},
			{Name: "linux.text", Outcome: NotMeasured, Reason: "no kernel image"},
			{Name: "kvm.ops", Outcome: Pass, Coverage: Coverage{Objects: 2, Total: 3}, Notes: []Finding{{Explanation: "a note"}}},
		},
	}
	r.Decide()
	var b bytes.Buffer
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	want := `vm web-1: FAIL
kernel 6.1.0-56-amd64, build-id eb4f
text at 0xffffffff81000000 (moved by 0x0), 4-level page tables, 2 CPUs
paused for 1.8 ms of 141 ms

  FAIL          linux.idt   256 objects, 4.0 KiB
                idt[0x80] at 0xfffffe0000000800: goes elsewhere
                  observed  0x1
                  expected  asm_int80
  not measured  linux.text  
                no kernel image
  pass          kvm.ops     2 of 3 objects
                note: a note

1 of 3 checks passed, 1 failed, 1 not measured: that is not a pass
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("text (-want +got):\n%s", diff)
	}
}

// A hostile symbol name must not reach the terminal.
func TestTextEscapesTerminalSequences(t *testing.T) {
	r := Report{Checks: []Check{{Name: "x", Outcome: Fail, Findings: []Finding{{Symbol: "a\x1b[2Jb\x9b\xff\u202e", Explanation: "é"}}}}}
	var b bytes.Buffer
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	if got, want := b.String(), `a\u{1b}[2Jb\x9b\xff\u{202e}: é`; !strings.Contains(got, want) {
		t.Errorf("got %q, want it to hold %q", got, want)
	}
}
