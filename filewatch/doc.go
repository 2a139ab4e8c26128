// Package filewatch is the vocabulary for the files of a guest seen from
// outside: what an object on a volume is, what was done to it, by whom, and
// which rule asks for it. It does no I/O; mechanisms are in the packages below
// it (volume and disk read files at rest, trap and tap see operations live).
//
// Identity is (volume, inode, generation). A path is an attribute of an object
// and may change or be one of several.
//
// # What it trusts
//
// Nothing here is evidence by itself. An [Object] is as true as the volume it
// was read from, which the guest owns; an [Actor] is read from guest memory and
// is as true as the guest's kernel, which a scan of that kernel speaks for. A
// source that cannot tell says so: [Actor.Unknown] carries the reason.
package filewatch
