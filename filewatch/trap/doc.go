// Package trap sees file operations of a guest from inside its virtual machine
// monitor: the monitor stops the guest's CPU for a moment at functions of the
// guest's kernel, and a driver for that kernel reads from guest memory what is
// being done, to which object, and by whom. Nothing is installed in the guest.
//
// A [Driver] (guest/linux) knows where to stop and what to read there. An
// [Engine] runs it: it pairs the entry of a function with its return, so that
// an operation is reported when the guest's kernel has said that it succeeded.
// A mechanism brings the stops: qemutcg runs the engine inside QEMU, gdbstub
// over GDB's remote protocol. A [Source] turns the [Record] of an operation
// into the [filewatch.Event] that rules ask for.
//
// # What it proves, trusts, and cannot see
//
// An event says that the guest's kernel ran the named operation and returned
// success. It trusts that the code of that kernel is the one expected, which a
// scan (package measure) speaks for: a kernel taken over can call its file
// systems without passing the trapped functions, and can lie in the structures
// that are read. It cannot see writes to the disk below the file system, what
// another machine does to a shared disk, or the single stores into a shared
// writable mapping: of those, the first to each clean page and the end of the
// mapping are seen. Between a reset of the guest and the moment the new kernel
// is bound nothing is seen; that interval is reported.
//
// Everything read from the guest is hostile: every pointer is followed a
// bounded number of times, names and paths are capped, and what does not
// validate is marked in the record instead of guessed.
package trap
