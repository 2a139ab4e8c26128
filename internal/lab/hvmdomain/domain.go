package main

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// abi is what differs between versions of Xen (include/public/domctl.h and
// arch-x86/xen.h): the interface's number, and where within the arguments of
// createdomain the emulated devices are.
type abi struct {
	version   uint32
	emulation int
}

var abis = map[string]abi{
	"4.14": {version: 0x12, emulation: 44},
	"4.17": {version: 0x15, emulation: 56},
	"4.20": {version: 0x17, emulation: 60},
}

// Operations (include/public/domctl.h) and flags of createdomain.
const (
	createDomain  = 1
	destroyDomain = 2
	unpauseDomain = 4
	shadowOp      = 10
	maxMemory     = 11
	maxVCPUs      = 15
	setHVMContext = 34

	flagHVM, flagHAP = 1, 2
	emulateLAPIC     = 1
	setAllocation    = 31
	populatePhysmap  = 6
)

// What the domain gets: single pages at 1 MiB and two pages of 2 MiB at 4 MiB,
// in which a table of each size of page is needed.
const (
	smallPages = 64
	largePages = 2
	poolMiB    = 4 // for its nested page tables
)

// create makes a domain that is as a toolstack would have it before it runs, and
// may start it.
func (x *hypervisor) create(cpus int, starts bool) (uint16, error) {
	put := binary.LittleEndian.PutUint32
	running := cpus
	if starts {
		cpus++ // one is never started
	}
	id, err := x.domctl(createDomain, 0, func(u []byte) {
		copy(u[4:], "plumbline-hvm-00") // its handle
		put(u[20:], flagHVM|flagHAP)
		put(u[28:], uint32(cpus))
		put(u[32:], 1023) // event channels
		put(u[36:], 4)    // frames of grants
		put(u[40:], 4)    // and of what tracks them
		if x.abi.emulation > 44 {
			put(u[44:], 1) // version of grants, since 4.16
		}
		put(u[x.abi.emulation:], emulateLAPIC)
	})
	if err != nil {
		return 0, err
	}
	err = x.furnish(id, cpus)
	if err == nil && starts {
		err = x.start(id, running)
	}
	if err != nil {
		return 0, errors.Join(err, x.destroy(id))
	}
	return id, nil
}

func (x *hypervisor) furnish(id uint16, cpus int) error {
	put := binary.LittleEndian.PutUint32
	steps := []struct {
		command uint32
		fill    func([]byte)
	}{
		{maxMemory, func(u []byte) { binary.LittleEndian.PutUint64(u, 16<<10) }}, // KiB
		{maxVCPUs, func(u []byte) { put(u, uint32(cpus)) }},                      // without one there is no pool
		{shadowOp, func(u []byte) { put(u, setAllocation); put(u[8:], poolMiB) }},
	}
	for _, s := range steps {
		if _, err := x.domctl(s.command, id, s.fill); err != nil {
			return err
		}
	}
	if err := x.populate(id, 0x100, smallPages, 0); err != nil {
		return err
	}
	return x.populate(id, 0x400, largePages, 9)
}

// populate gives a domain memory (include/public/memory.h, struct
// xen_memory_reservation): count pages of 4 KiB << order from a guest frame on.
func (x *hypervisor) populate(id uint16, gfn uint64, count, order int) error {
	clear(x.page)
	frames := x.page[pageSize:]
	for i := range count {
		binary.LittleEndian.PutUint64(frames[8*i:], gfn+uint64(i)<<order)
	}
	binary.LittleEndian.PutUint64(x.page, x.at(pageSize))
	binary.LittleEndian.PutUint64(x.page[8:], uint64(count))
	binary.LittleEndian.PutUint32(x.page[16:], uint32(order))
	binary.LittleEndian.PutUint16(x.page[24:], id)
	done, err := x.call(hypercallMemory, populatePhysmap, x.at(0))
	if err == nil && done != count {
		err = fmt.Errorf("%d of %d", done, count)
	}
	if err != nil {
		return fmt.Errorf("give domain %d %d pages of order %d: %w", id, count, order, err)
	}
	return nil
}

func (x *hypervisor) destroy(id uint16) error {
	_, err := x.domctl(destroyDomain, id, func([]byte) {})
	return err
}
