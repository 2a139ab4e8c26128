// Package inside is the half of the trap plugin that runs inside QEMU and needs
// no cgo: the control server, the bounded queue of each client, and the engine
// between QEMU's callbacks and the clients. The plugin itself (package plugin)
// joins it to QEMU's functions.
//
// It runs in the operator's virtual machine monitor, so it never waits for a
// client, holds a bounded amount of memory, and turns a panic of its own into
// the end of the watch, never of the machine.
package inside
