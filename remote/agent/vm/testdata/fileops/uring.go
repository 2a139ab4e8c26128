package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Numbers of io_uring (include/uapi/linux/io_uring.h).
const (
	opWrite    = 23
	opUnlinkat = 36
	getEvents  = 1
	offSQEs    = 0x10000000
	offCQ      = 0x8000000
)

// uring writes to one file and unlinks another without a system call for either.
func uring(args []string) error {
	f, err := os.OpenFile(args[0], os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	data, name := []byte("by the ring\n"), append([]byte(args[1]), 0)
	if err := submit(opWrite, int32(f.Fd()), data, uint32(len(data))); err != nil {
		return err
	}
	return submit(opUnlinkat, unix.AT_FDCWD, name, 0)
}

// submit runs one operation on a ring of its own.
func submit(op byte, fd int32, buf []byte, length uint32) error {
	le := binary.LittleEndian
	params := make([]byte, 120) // struct io_uring_params
	ring, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&params[0])), 0)
	if errno != 0 {
		return errno
	}
	defer unix.Close(int(ring))
	at := func(off int) uint32 { return le.Uint32(params[off:]) }
	// sq_off is at 40 (tail 44, array 64), cq_off at 80 (tail 84, cqes 100).
	sq, err := unix.Mmap(int(ring), 0, int(at(64)+at(0)*4), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	cq, err := unix.Mmap(int(ring), offCQ, int(at(100)+at(4)*16), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	sqe, err := unix.Mmap(int(ring), offSQEs, int(at(0)*64), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	sqe[0] = op
	le.PutUint32(sqe[4:], uint32(fd))
	le.PutUint64(sqe[16:], uint64(uintptr(unsafe.Pointer(&buf[0]))))
	le.PutUint32(sqe[24:], length)
	le.PutUint32(sq[at(44):], le.Uint32(sq[at(44):])+1)
	// A signal, such as one of Go's own to its threads, ends the wait before the
	// operation is done, and an operation that waits for a kernel thread is given up
	// with the process.
	queued := uintptr(1)
	for tail := at(84); atomic.LoadUint32((*uint32)(unsafe.Pointer(&cq[tail]))) == 0; {
		_, _, errno = unix.Syscall6(unix.SYS_IO_URING_ENTER, ring, queued, 1, getEvents, 0, 0)
		if errno != 0 && errno != unix.EINTR {
			return errno
		}
		if errno == 0 {
			queued = 0
		}
	}
	runtime.KeepAlive(buf)
	if res := int32(le.Uint32(cq[at(100)+8:])); res < 0 {
		return fmt.Errorf("operation %d: %w", op, unix.Errno(-res))
	}
	return nil
}
