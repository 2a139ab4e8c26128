// Package qemu reads the memory and registers of a virtual machine that a stock
// QEMU runs on this host, through its QMP socket and /proc.
//
// # How memory is found
//
// "info mtree -f" lists the guest-physical ranges that are RAM and the memory
// backend behind each; "gpa2hva" gives where QEMU maps them; /proc/PID/maps
// says which file that is, and /proc/PID/fd opens it, so that files and memfds,
// RAM split around the 4 GiB hole and several NUMA nodes all come out alike.
// RAM that is not shared is read through /proc/PID/mem. Shared RAM in tmpfs is
// mapped, and read through the mapping where the file holds data. No way allocates
// RAM that the guest has not touched.
//
// # What it trusts
//
// The QEMU process, this host's kernel, and that /proc is the host's. The
// caller must be allowed to read the QEMU process: its user, or root.
package qemu
