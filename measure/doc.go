// Package measure is the vocabulary of measuring a machine's memory and
// registers from outside: what was observed ([Observations]) and what it was
// judged to mean ([Report]).
//
// Producers state facts and judge nothing. An [Observations] holds registers,
// table contents, page digests and code pointers as they were read, and for
// whatever could not be read the reason. A [Report] is a pure function of
// observations and reference values; the one-shot command and the verifier
// compute it with the same code, in package measure/check.
//
// # What a report proves, trusts and cannot see
//
// It proves what the bytes were at the time of the scan, as read by the machine
// that measured. It trusts that machine: its kernel, its VMM and the process
// that read; a quote over [Bind] says which machine that was and what it had
// booted. It cannot see what an attacker put back before the scan, nor
// processor state that the source does not offer; checks that need such state
// end as not measured, with the reason, and never as pass.
//
// The package does no I/O and imports nothing of the project.
package measure
