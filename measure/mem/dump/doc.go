// Package dump reads a machine's memory, and where it has them its registers,
// from a file that was written earlier.
//
// # Formats
//
//   - ELF core files of QEMU's dump-guest-memory and of virsh dump
//     --memory-only: RAM by physical address and the registers of each CPU.
//   - kdump-compressed files, as QEMU and makedumpfile write them, flattened or
//     not: pages raw, zlib, LZO, snappy or zstd.
//   - LiME: ranges of RAM, no registers.
//   - raw: bytes from physical address 0 on, no registers.
//
// A raw file says nothing about itself. It is taken for physical memory from 0
// on, which holds for RAM below the hole under 4 GiB only: what follows in the
// file of a machine with more (on q35 from 2 GiB, on i440fx from 3 GiB) lies
// from 4 GiB on. Where page tables and descriptor tables are is told by
// registers; a source without them (raw, LiME, /proc/vmcore) is not guessed at.
//
// # What it trusts
//
// Whoever wrote the file and kept it: a dump is not authenticated. Its bytes are
// treated as an attacker's: sizes are bounded, nothing overlaps, and what the
// file lacks is [io.ErrUnexpectedEOF] or [mem.ErrNotMapped], never zeros.
package dump
