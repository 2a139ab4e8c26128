// Package check holds the checks of a machine's kernel, one file each: the half
// that collects, which touches the target and states facts, and the half that
// judges, which is pure.
//
// [Scan] runs the collecting halves against a [Machine] and returns
// [measure.Observations] with the bytes of the pages whose digests they hold.
// [Judge] turns observations into a [measure.Report] with reference values and,
// for pages nobody has judged before, their bytes; it runs in the one-shot
// command and in the verifier alike.
//
// A scan proves what memory held when it was read. It trusts the source of the
// memory (the VMM and the machine under it). Each check's file says what it
// proves, what it trusts beyond that, and what an attacker can still do.
package check
