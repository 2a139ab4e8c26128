// Package kernel knows Linux kernels from their memory and from their files.
//
// A [Profile] is made from the memory of a running kernel alone: where it lies,
// its symbols (kallsyms), its types (BTF), its modules. Nothing is asked of the
// user. Memory may lie, so a profile is a set of claims: each structure is
// validated, and what does not validate is an error, never a guess. An [Image]
// is made from the kernel's file and says what its memory should hold.
package kernel
