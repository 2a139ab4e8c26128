// Package graph walks the objects of a running kernel: from its global and
// per-CPU variables along the members of structures, by the types that the
// kernel's BTF gives, and collects every pointer to a function on the way. It
// is what KOP (Carbone and others, CCS 2009) did with the types of source code.
//
// # Which pointers are followed
//
// A pointer whose type is a table of functions is followed wherever it leads:
// that is where hooks are. A pointer to any other structure is followed if the
// place where it leads confirms the type: the kernel's or a module's static
// data, with room for the structure within its symbol, or a live object of the
// slab allocator: of the cache of that type, or of a cache of no one type and
// large enough. A void pointer is followed only to an object of a cache of one
// type: the allocator, not a guess, says what it is. Lists, trees and arrays
// are followed where the table of containers says what they hold; members of
// unions where the table of choices says which one is meant. What is not in
// these tables is not walked, and counted.
//
// # Hostile memory
//
// Everything read is an attacker's. Each object is visited once, so cycles end;
// objects, depth, elements of a container and bytes read have limits. Reads go
// through a cache of whole pages, so that one walk sees each page once and the
// same memory gives the same result. Memory that changes while it is read may
// give a pointer that never was: the caller walks again and keeps what lasts.
package graph
