// Package qemutcg brings trapped file operations out of a QEMU that emulates
// its guest (TCG): a plugin inside QEMU stops the guest's CPUs at the hooks of
// a trap driver, and this package is the client that finds the plugin, binds
// it to the running kernel and reads its records.
//
// The operator gives QEMU the plugin at start:
//
//	-plugin /path/plumbline-trap.so,control=/path/trap.sock
//
// It waits there without hooks, at the cost of one comparison for each block
// that QEMU translates, until a client connects. When the last client leaves
// the hooks are gone again.
//
// QEMU's plugin interface lets a plugin see what is executed, and from version 2
// (QEMU 9) on also gives it registers. What it does not give the plugin takes
// from functions that the QEMU binary exports for its own use, looked up when it
// is loaded; where one is missing it says so to each client and traps nothing.
package qemutcg
