// Package kcore reads the memory of the machine this program runs on, through
// the kernel's own /proc/kcore.
//
// # What it trusts
//
// The very kernel that is measured: an attacker who owns it can have /proc/kcore
// show what he likes. What this source is good for: finding attackers who did not
// take that trouble, machines whose host cannot look (bare metal), and lies: what
// it shows can be compared with what the host of a virtual machine sees
// (check.CompareViews).
//
// # What it cannot see
//
// Control registers, which user mode cannot read; the registers of system calls
// only where the msr module is loaded. Memory that the kernel took off line or
// that is poisoned reads as zeros. The machine cannot be stopped.
//
// # Lockdown
//
// Under lockdown in integrity mode, as Secure Boot sets it, /proc/kcore can be
// read; in confidentiality mode it cannot, by anybody.
package kcore
