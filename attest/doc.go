// Package attest judges what a machine says about its own boot.
//
// Evidence is a TPM 2.0 quote with the logs that explain it: the TCG event log
// the firmware wrote and the IMA list the kernel writes. [Verify] appraises it
// against a [Policy] and is a pure function of its arguments: no TPM, no clock,
// no network. Collecting evidence is the business of attest/tpm, which this
// package does not import.
//
// What a pass proves: the key that signed the quote answers this nonce; its
// TPM's PCRs hold what the quote says; the logs reproduce those PCRs to the
// last bit; and every event that the policy speaks about is one it allows.
//
// What it trusts: the TPM and its maker's certificate, the firmware's first
// measured code (the root of trust for measurement) and that each stage
// measures the next before running it.
//
// What an attacker can still do: change code after it was measured (kernel
// memory is package measure's business), exploit measured and allowed code, put
// an interposer on a discrete TPM's bus, or run a machine whose firmware never
// measures. Data that no stage measures (most files, unless IMA's policy
// covers them) is not proved by anything here.
package attest
