//go:build cgo

// Command plugin is the trap plugin for QEMU's TCG, built as a shared library:
//
//	go build -buildmode=c-shared -o plumbline-trap.so ./filewatch/trap/qemutcg/plugin
//
// and given to QEMU as "-plugin plumbline-trap.so,control=SOCKET". What it does
// is in package inside; here it is joined to QEMU.
package main

// #cgo LDFLAGS: -ldl
// #include <stdlib.h>
// #include "qemu.h"
import "C"

import (
	"fmt"
	"os"
	"slices"
	"unsafe"

	"github.com/plumbline-sec/plumbline/filewatch/trap"
	"github.com/plumbline-sec/plumbline/filewatch/trap/qemutcg/inside"
)

// server is set once, by plumblineInstall, before any CPU runs.
var server *inside.Server

func main() {} // a shared library has none

// plumblineInstall starts the control server. It returns non-zero, and QEMU
// does not start, when the argument cannot be used.
//
//export plumblineInstall
func plumblineInstall(control *C.char) C.int {
	if control == nil {
		fmt.Fprintln(os.Stderr, "plumbline-trap: argument control=SOCKET is missing")
		return -1
	}
	l, err := inside.Listen(C.GoString(control))
	if err != nil {
		fmt.Fprintf(os.Stderr, "plumbline-trap: %v\n", err)
		return -1
	}
	server = inside.NewServer(new(machine))
	go server.Serve(l)
	return 0
}

//export plumblineReset
func plumblineReset() { server.Reset() }

// plumblineStop handles a CPU at a hook. To refuse the call it leaves the
// return address in args[0] and returns non-zero.
//
//export plumblineStop
func plumblineStop(cpu C.uint, s *C.struct_stop) C.int {
	regs := trap.Registers{
		PC: uint64(s.pc), SP: uint64(s.sp), AX: uint64(s.ax),
		GSBase: uint64(s.gs_base), CR3: uint64(s.cr3), CR4: uint64(s.cr4),
	}
	for i := range regs.Args {
		regs.Args[i] = uint64(s.args[i])
	}
	ret, deny := server.Stop(uint32(cpu), &regs)
	if !deny {
		return 0
	}
	s.args[0] = C.uint64_t(ret)
	return 1
}

// lowMemory is not mapped: what lies below 1 MiB changes with the chipset's
// switches, and a kernel keeps no structure there.
const lowMemory = 1 << 20

// machine implements inside.Machine over QEMU. Phys is called under the
// server's lock only.
type machine struct{ ranges []ram }

// ram is a piece of guest-physical memory that lies together in QEMU.
type ram struct {
	addr  uint64
	bytes []byte
}

// maxRanges bounds the pieces of RAM that are remembered.
const maxRanges = 64

// step is how much is asked for at once; QEMU gives less at the end of RAM.
const step = 1 << 30

func (m *machine) Phys(addr uint64) []byte {
	for i := range m.ranges {
		r := &m.ranges[i]
		if addr >= r.addr && addr-r.addr < uint64(len(r.bytes)) {
			return r.bytes[addr-r.addr:]
		}
	}
	if addr < lowMemory || len(m.ranges) >= maxRanges {
		return nil
	}
	base := addr &^ (step - 1)
	if base < lowMemory {
		base = lowMemory
	}
	for _, at := range []uint64{base, addr &^ 0xfff} {
		n := C.uint64_t(step)
		p := C.pl_map(C.uint64_t(at), &n)
		if p != nil && addr-at < uint64(n) {
			m.ranges = append(m.ranges, ram{at, unsafe.Slice((*byte)(p), uint64(n))})
			return m.Phys(addr)
		}
	}
	return nil
}

func (m *machine) SetHooks(addrs []uint64) {
	addrs = slices.Clone(addrs)
	slices.Sort(addrs)
	C.pl_set_hooks((*C.uint64_t)(unsafe.SliceData(addrs)), C.size_t(len(addrs)))
}

func (m *machine) Blind() uint64 { return uint64(C.pl_blind()) }

func (m *machine) Problem() string {
	if missing := C.pl_problem(); missing != nil {
		return "this QEMU does not offer " + C.GoString(missing)
	}
	return ""
}

func (m *machine) CPUs() int { return int(C.pl_cpus()) }
