package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Hypercalls (include/public/xen.h) and the ioctl that makes one
// (include/uapi/xen/privcmd.h of Linux: _IOC(_IOC_NONE, 'P', 0, 48 bytes)).
const (
	hypercallMemory  = 12
	hypercallVersion = 17
	hypercallDomctl  = 36
	ioctlHypercall   = 48<<16 | 'P'<<8
)

// hypervisor takes hypercalls. Their arguments lie in two pages that stay in
// memory: Xen reads them by the address they have in this process.
type hypervisor struct {
	file *os.File
	page []byte // two of them
	abi  abi
}

func open() (*hypervisor, error) {
	file, err := os.OpenFile("/dev/xen/privcmd", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	page, err := unix.Mmap(-1, 0, 2*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_LOCKED|unix.MAP_POPULATE)
	if err != nil {
		return nil, err
	}
	x := &hypervisor{file: file, page: page}
	v, err := x.call(hypercallVersion, 0, 0) // XENVER_version
	if err != nil {
		return nil, err
	}
	version := fmt.Sprintf("%d.%d", v>>16, v&0xffff)
	var ok bool
	if x.abi, ok = abis[version]; !ok {
		return nil, fmt.Errorf("the interface of Xen %s is not known here", version)
	}
	return x, nil
}

const pageSize = 4096

// call makes a hypercall.
func (x *hypervisor) call(op uint64, args ...uint64) (int, error) {
	var c [6]uint64
	c[0] = op
	copy(c[1:], args)
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, x.file.Fd(), ioctlHypercall, uintptr(unsafe.Pointer(&c)))
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// at is the address of a byte of the pages.
func (x *hypervisor) at(offset int) uint64 { return uint64(uintptr(unsafe.Pointer(&x.page[offset]))) }

// domctl makes an operation on a domain (include/public/domctl.h, struct
// xen_domctl): a head of 16 bytes, then what the operation takes.
func (x *hypervisor) domctl(command uint32, domain uint16, fill func(u []byte)) (uint16, error) {
	clear(x.page[:pageSize]) // the second may hold what fill points to
	binary.LittleEndian.PutUint32(x.page, command)
	binary.LittleEndian.PutUint32(x.page[4:], x.abi.version)
	binary.LittleEndian.PutUint16(x.page[8:], domain)
	fill(x.page[16:144])
	if _, err := x.call(hypercallDomctl, x.at(0)); err != nil {
		return 0, fmt.Errorf("operation %d on domain %d: %w", command, domain, err)
	}
	return binary.LittleEndian.Uint16(x.page[8:]), nil
}
