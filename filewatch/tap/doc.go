// Package tap sees file operations of a machine on its disks' path: QEMU's dirty
// bitmaps tell which blocks were written, package guest which objects these belong
// to, and comparing what is known of an object from before with what is there now
// tells what was done to it. It needs nothing but QEMU's monitor, and so sees
// machines whose processor the hypervisor does not run itself, as under KVM.
//
// A [Source] looks at the disks again and again. [Compare] is the pure half: two
// states of one inode, and the [Operation] that leads from the one to the other.
//
// # What it proves, trusts, and cannot see
//
// An event says that the disk, journal replayed, held one state of an object at one
// look and another at the next: between the two it was done. It trusts QEMU, whose
// word the bitmap and the blocks are, and the host; of the guest nothing, but that
// its kernel keeps its files on these disks: what it has in memory only is not seen.
// So what is written is seen when the guest writes it back, half a minute later by
// Linux's default. What is done and undone between two looks is seen only as far as
// the change of a time tells it; two operations on one object may be seen as one. Who
// did it, and what was only read, no disk says.
//
// Everything on a guest's disks is hostile. Memory is bounded whatever it changes:
// states are sorted in files, what is held of them and of paths is bounded in bytes, and
// events are given on one at a time. No
// event is dropped; a consumer that does not keep up has looks come later.
package tap
