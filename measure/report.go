package measure

import (
	"encoding/json"
	"time"
)

// Outcome is what a check or a report comes to.
type Outcome string

// A report's outcome is one of Pass, Fail and Incomplete; a check's is one of
// Pass, Fail and NotMeasured.
const (
	Pass        Outcome = "pass"
	Fail        Outcome = "fail"
	Incomplete  Outcome = "incomplete"
	NotMeasured Outcome = "not-measured"
)

// Target names the machine that was measured. Every field but Kind may be
// empty; none of them is authenticated.
type Target struct {
	Kind string `json:"kind"`           // "vm", "host" or "dump"
	Name string `json:"name,omitempty"` // the VM's name, or the host's
	UUID string `json:"uuid,omitempty"` // the VM's UUID
	Path string `json:"path,omitempty"` // QMP socket or dump file
}

// Xen is the kind of kernel that is a Xen hypervisor.
const Xen = "xen"

// Kernel is what the target said it runs: facts read from its memory, believed
// only as far as the checks bear them out.
type Kernel struct {
	Kind     string `json:"kind,omitempty"`      // Xen; empty for Linux
	Release  string `json:"release,omitempty"`   // as in uname -r
	BuildID  string `json:"build_id,omitempty"`  // GNU build-id, lower-case hex
	TextBase string `json:"text_base,omitempty"` // address of _text, "0x..."
	Slide    string `json:"slide,omitempty"`     // KASLR offset, "0x..."
	Levels   int    `json:"levels,omitempty"`    // of page tables, 4 or 5
	CPUs     int    `json:"cpus,omitempty"`      // virtual CPUs seen
	Types    int    `json:"types,omitempty"`     // BTF types read
	Symbols  int    `json:"symbols,omitempty"`   // kallsyms symbols read
	// SymbolDigest stands for these symbols wherever the kernel runs, 64 hex
	// digits: it is the image's if they are.
	SymbolDigest string `json:"symbol_digest,omitempty"`
	// Described says that the kernel was found by its own word for where its page
	// tables are (VMCOREINFO), because the source has no registers.
	Described bool `json:"described,omitempty"`
}

// Report is the outcome of one scan of one target.
type Report struct {
	Target    Target    `json:"target"`
	Outcome   Outcome   `json:"outcome"`
	TakenAt   time.Time `json:"taken_at,omitzero"`
	PauseMS   float64   `json:"pause_ms"`   // the longest time the target stood still at once
	ElapsedMS float64   `json:"elapsed_ms"` // time the scan took in all
	// TotalPauseMS is the sum of all times the target stood still for the scan.
	TotalPauseMS float64 `json:"total_pause_ms,omitempty"`
	Kernel       Kernel  `json:"kernel"`
	Checks       []Check `json:"checks"`
}

// Check is the outcome of one check of a report.
type Check struct {
	Name     string    `json:"name"`             // such as "linux.text"
	Outcome  Outcome   `json:"outcome"`          // Pass, Fail or NotMeasured
	Reason   string    `json:"reason,omitempty"` // why not measured; a remark otherwise
	Coverage Coverage  `json:"coverage"`
	Findings []Finding `json:"findings"`
	Notes    []Finding `json:"notes,omitempty"` // legitimate changes worth telling, such as ftrace switched on
}

// MarshalJSON writes a check that found nothing with an empty list: scripts go
// through the findings of all checks without asking which have any.
func (c Check) MarshalJSON() ([]byte, error) {
	type plain Check
	if c.Findings == nil {
		c.Findings = []Finding{}
	}
	return json.Marshal(plain(c))
}

// Coverage is how much a check looked at.
type Coverage struct {
	Bytes   int64 `json:"bytes"`
	Objects int64 `json:"objects"`
	// Total is the number of objects known to exist, where the check can tell:
	// Objects of Total were looked at. Zero where it cannot.
	Total int64 `json:"total,omitempty"`
}

// Finding is one thing that differs from what is expected. Address, Observed
// and Expected are text so that a report reads the same everywhere: addresses
// as "0x...", bytes as lower-case hex, pointers as addresses.
type Finding struct {
	Address     string `json:"address,omitempty"`
	Symbol      string `json:"symbol,omitempty"` // such as "security_file_open+0x10" or "kvm_x86_ops.run"
	Observed    string `json:"observed,omitempty"`
	Expected    string `json:"expected,omitempty"`
	Explanation string `json:"explanation"`
}

// Decide sets and returns the report's outcome: Fail if any check failed, else
// Incomplete unless every check passed. A report without checks is incomplete,
// and so is one with an outcome it does not know.
func (r *Report) Decide() Outcome {
	r.Outcome = Pass
	if len(r.Checks) == 0 {
		r.Outcome = Incomplete
	}
	for _, c := range r.Checks {
		switch c.Outcome {
		case Fail:
			r.Outcome = Fail
			return Fail
		case Pass:
		default:
			r.Outcome = Incomplete
		}
	}
	return r.Outcome
}

// Failed returns the checks that failed.
func (r *Report) Failed() []Check { return r.having(Fail) }

// Unmeasured returns the checks that did not run.
func (r *Report) Unmeasured() []Check { return r.having(NotMeasured) }

func (r *Report) having(o Outcome) []Check {
	var out []Check
	for _, c := range r.Checks {
		if c.Outcome == o {
			out = append(out, c)
		}
	}
	return out
}
