// Package xen knows what a running Xen hypervisor is, from its memory, and what
// it should be, from its file.
//
// [NewProfile] finds Xen behind the interrupt table of a CPU and reads its own
// symbols and build-id; [OpenImage] reads the file that a boot loader gets, a
// 32-bit multiboot ELF, gzipped or not. [Image.Explain] compares the two.
//
// A profile is what the target says: it is believed only as far as the image
// bears it out. Everything read is hostile; what does not hold together is an
// error, never a guess. Sources are those of Xen 4.14 to 4.20, xen/arch/x86
// unless another directory is named.
package xen
