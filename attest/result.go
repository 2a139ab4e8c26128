package attest

// Outcome is how a check, or a whole appraisal, ended.
type Outcome string

// Outcomes. A check is Pass, Fail or NotMeasured; a result is Pass, Fail or
// Incomplete. What was not measured never passes.
const (
	Pass        Outcome = "pass"
	Fail        Outcome = "fail"
	NotMeasured Outcome = "not-measured"
	Incomplete  Outcome = "incomplete"
)

// Names of the checks of [Verify], in the order they are reported.
const (
	CheckQuote      = "quote"       // signature, form and PCR values
	CheckNonce      = "nonce"       // freshness
	CheckKey        = "ak"          // the key is the enrolled one
	CheckEventLog   = "event-log"   // the log reproduces the quoted PCRs
	CheckSecureBoot = "secure-boot" // on, with keys the policy allows
	CheckBoot       = "boot"        // what the firmware started is allowed
	CheckFirmware   = "firmware"    // platform and TPM firmware are allowed
	CheckPCRs       = "pcrs"        // values the policy fixes
	CheckIMA        = "ima"         // the kernel's list reproduces PCR 10, files are allowed
)

// Result is an appraisal of evidence.
type Result struct {
	Outcome Outcome `json:"outcome"`
	Policy  string  `json:"policy,omitempty"` // the policy's name
	Checks  []Check `json:"checks"`

	// Claims are facts read from verified evidence; zero when the quote or the
	// event log does not verify.
	Claims Claims `json:"claims"`
}

// Check is one question asked of the evidence.
type Check struct {
	Name     string    `json:"name"`
	Outcome  Outcome   `json:"outcome"`
	Reason   string    `json:"reason,omitempty"` // why not measured; otherwise what was looked at
	Findings []Finding `json:"findings,omitempty"`
}

// Finding is one thing that is not as it should be. Fields that do not apply
// are absent.
type Finding struct {
	Log         string `json:"log,omitempty"`   // "tcg", "ima" or "user"
	Event       *int   `json:"event,omitempty"` // number in that log, from 0
	PCR         *int   `json:"pcr,omitempty"`
	File        string `json:"file,omitempty"` // path as the log gives it
	Expected    string `json:"expected,omitempty"`
	Observed    string `json:"observed,omitempty"`
	Explanation string `json:"explanation"`
}

// Claims are what verified evidence says of a boot.
type Claims struct {
	// Name of the attestation key.
	AK Hex `json:"ak,omitempty"`

	// Clock and counters of the quote. A ResetCount that differs from the
	// last one seen means another boot: appraise it anew.
	Clock        uint64 `json:"clock_ms"`
	ResetCount   uint32 `json:"reset_count"`
	RestartCount uint32 `json:"restart_count"`
	TPMFirmware  string `json:"tpm_firmware,omitempty"` // 4 groups of 16 bits, hexadecimal

	// SecureBoot is nil when no event says.
	SecureBoot *bool `json:"secure_boot,omitempty"`
	// Keys are the entries of PK, KEK and db. dbx has hundreds; a policy's
	// secure_boot.dbx asks for those that matter.
	Keys         []Key             `json:"keys,omitempty"`
	Firmware     string            `json:"firmware,omitempty"` // S-CRTM version
	Applications []BootApplication `json:"applications,omitempty"`
	CommandLine  string            `json:"command_line,omitempty"`

	// IMA says how much of the kernel's list the quote covers.
	IMA *IMAClaims `json:"ima,omitempty"`

	// Boot tells in words, a step a line, what booted.
	Boot []string `json:"boot,omitempty"`
}

// Key is an entry of a Secure Boot variable.
type Key struct {
	Variable string `json:"variable"` // "PK", "KEK", "db"
	Kind     string `json:"kind"`     // "x509", "sha256", "x509-sha256" or a GUID
	Digest   Hex    `json:"digest"`   // SHA-256 of the certificate, or the entry itself
	Subject  string `json:"subject,omitempty"`
}

// BootApplication is an image that the firmware, or a boot loader through it,
// loaded.
type BootApplication struct {
	Event  int    `json:"event"`
	PCR    int    `json:"pcr"`
	Path   string `json:"path"`           // as the device path gives it
	Digest Hex    `json:"digest"`         // Authenticode, in the bank that was verified
	Name   string `json:"name,omitempty"` // the policy's name for this digest
}

// IMAClaims is how much of the IMA list was verified.
type IMAClaims struct {
	Entries    int `json:"entries"` // covered by the quote
	Later      int `json:"later"`   // in the log, measured after the quote
	Violations int `json:"violations"`
}

// Decide sets the outcome from the checks: a failed one fails all, one not
// measured leaves it incomplete, and no check at all is incomplete.
func (r *Result) Decide() {
	r.Outcome = Pass
	if len(r.Checks) == 0 {
		r.Outcome = Incomplete
	}
	for _, c := range r.Checks {
		switch {
		case c.Outcome == Fail:
			r.Outcome = Fail
			return
		case c.Outcome != Pass:
			r.Outcome = Incomplete
		}
	}
}
