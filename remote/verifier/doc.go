// Package verifier is the machine apart: it enrols hosts, holds reference
// values, policies and baselines, fires scans through BMCs, appraises what
// comes back, keeps it, and tells people.
//
// What a machine's state says is derived here, from evidence whose origin was
// checked, by the judging code of attest, measure/check and baseline. An
// agent's own opinion is never taken.
//
// It trusts its own store and keys, the TPM makers' authorities it was given,
// the reference kernels it was given, and, for what is measured from outside,
// the host that measures as far as that host's own attested boot bears it out.
// Who holds the verifier's state directory decides what is trusted.
//
// Work begins with a durable record: requests store records and return, two
// workers (one for file events and remarks, one for attestations and scans)
// take them from the store in order, and mark them processed in the same
// commit as what follows from them. A verifier that dies starts again there.
package verifier
