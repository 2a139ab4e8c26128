// Package baseline keeps what the files of a machine should be and says what
// differs.
//
// A baseline is one signed file ([Header], then one [Record] per object, sorted
// by path). [Capture] makes one from a [Source], [Compare] sets two against each
// other under the rules, [Judge] does it for one object, and [Accept] turns
// chosen changes into the next version of a baseline.
//
// # What it proves
//
// That an object's recorded attributes and content digest are those of the
// time of the baseline, as far as the source could read them. What could not be
// read is a [filewatch.Gap] or [Record.Unread] and makes a check incomplete;
// it never passes.
//
// # What it trusts
//
// The key that signed the baseline, the machine that ran the capture, and for
// the state at the time of the capture the guest: a baseline of a machine that
// was already changed calls the change right.
//
// # What an attacker can still do
//
// Change a file and put it back between two checks (package trap sees that),
// keep changed content in memory only (package measure looks there), or change
// what the rules ignore.
package baseline
