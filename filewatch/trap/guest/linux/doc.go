// Package linux is the trap driver for Linux guests on x86-64: which functions
// of the kernel to stop at, and how to read a file, its name and the task that
// works on it from the kernel's memory.
//
// The hooks are the functions of the virtual file system layer that every
// caller passes, system calls, io_uring, overlayfs and the kernel's own servers
// alike (fs/namei.c, fs/attr.c, fs/xattr.c, fs/open.c, fs/inode.c,
// fs/file_table.c). Offsets come from the kernel's own BTF, argument positions
// too; nothing is tied to a version. Kernels from 5.12 are expected to work,
// 6.1 is what the tests run.
package linux
