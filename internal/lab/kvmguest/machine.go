package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests of /dev/kvm (include/uapi/linux/kvm.h: _IO, _IOR, _IOW and _IOWR of
// KVMIO, 0xae).
const (
	createVM        = 0xae01
	mmapSize        = 0xae04
	supportedCPUID  = 0xc008ae05
	createVCPU      = 0xae41
	setMemoryRegion = 0x4020ae46
	runVCPU         = 0xae80
	setRegisters    = 0x4090ae82
	getSpecial      = 0x8138ae83
	setSpecial      = 0x4138ae84
	interrupt       = 0x4004ae86
	setMSRs         = 0x4008ae89
	setCPUID        = 0x4008ae90

	exitIO, exitHalt, exitIntr = 2, 5, 10 // kvm_run.exit_reason
)

// machine is a virtual machine with its memory.
type machine struct {
	kvm, vm int
	memory  []byte
}

func newMachine() (*machine, error) {
	kvm, err := unix.Open("/dev/kvm", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/kvm: %w", err)
	}
	vm, err := request(kvm, createVM, 0)
	if err != nil {
		unix.Close(kvm)
		return nil, fmt.Errorf("make a machine: %w", err)
	}
	m := &machine{kvm: kvm, vm: vm}
	m.memory, err = unix.Mmap(-1, 0, memorySize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		m.close()
		return nil, err
	}
	furnish(m.memory)
	// struct kvm_userspace_memory_region
	region := [4]uint64{0, 0, memorySize, uint64(uintptr(unsafe.Pointer(&m.memory[0])))}
	if _, err := request(vm, setMemoryRegion, uintptr(unsafe.Pointer(&region))); err != nil {
		m.close()
		return nil, fmt.Errorf("give it memory: %w", err)
	}
	return m, nil
}

func (m *machine) close() {
	unix.Close(m.vm)
	unix.Close(m.kvm)
	if m.memory != nil {
		unix.Munmap(m.memory)
	}
}

func request(fd int, number uintptr, argument uintptr) (int, error) {
	for {
		n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), number, argument)
		switch errno {
		case 0:
			return int(n), nil
		case syscall.EAGAIN:
		default:
			return int(n), errno
		}
	}
}

// cpu is a virtual CPU of a machine.
type cpu struct {
	fd    int
	state []byte // struct kvm_run
}

func (m *machine) newCPU(number int, mode string) (*cpu, error) {
	code, ok := codeAt[mode]
	if !ok {
		return nil, fmt.Errorf("%q: spin, io or hlt", mode)
	}
	fd, err := request(m.vm, createVCPU, uintptr(number))
	if err != nil {
		return nil, fmt.Errorf("make CPU %d: %w", number, err)
	}
	c := &cpu{fd: fd}
	size, err := request(m.kvm, mmapSize, 0)
	if err == nil {
		c.state, err = unix.Mmap(fd, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	}
	if err == nil {
		err = c.set(m.kvm, code, stackTop-uint64(number)*pageSize)
	}
	if err != nil {
		c.close()
		return nil, fmt.Errorf("CPU %d: %w", number, err)
	}
	return c, nil
}

func (c *cpu) close() {
	if c.state != nil {
		unix.Munmap(c.state)
	}
	unix.Close(c.fd)
}

// set gives the CPU the registers it begins with.
func (c *cpu) set(kvm int, rip, rsp uint64) error {
	const entries = 256
	features := make([]byte, 8+40*entries) // struct kvm_cpuid2
	binary.LittleEndian.PutUint32(features, entries)
	if _, err := request(kvm, supportedCPUID, uintptr(unsafe.Pointer(&features[0]))); err != nil {
		return fmt.Errorf("features of processors: %w", err)
	}
	special := make([]byte, 312) // struct kvm_sregs
	steps := []struct {
		name   string
		number uintptr
		data   []byte
	}{
		{"set features", setCPUID, features},
		{"read special registers", getSpecial, special},
		{"set special registers", setSpecial, special},
		{"set registers", setRegisters, general(rip, rsp)},
		{"set model-specific registers", setMSRs, modelSpecific()},
	}
	for _, s := range steps {
		if s.number == setSpecial {
			longMode(special)
		}
		if _, err := request(c.fd, s.number, uintptr(unsafe.Pointer(&s.data[0]))); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// Offsets into struct kvm_run.
const (
	runReady  = 0x0c // ready_for_interrupt_injection
	runReason = 0x08
)

// run runs the CPU so many times, for 0 without end. ran is called once, when it
// has run for a while.
func (c *cpu) run(turns int, ran func()) error {
	runtime.LockOSThread()
	if turns == 0 {
		time.AfterFunc(time.Second, ran)
	}
	if turns > 0 {
		// A CPU that does not leave the guest by itself is called out of it.
		thread := unix.Gettid()
		stop := time.AfterFunc(300*time.Millisecond, func() { _ = unix.Tgkill(os.Getpid(), thread, unix.SIGURG) })
		defer stop.Stop()
	}
	for n := 0; turns == 0 || n < turns; n++ {
		if _, err := request(c.fd, runVCPU, 0); err == unix.EINTR {
			if turns > 0 {
				return nil
			}
			continue
		} else if err != nil {
			return fmt.Errorf("run: %w", err)
		}
		switch reason := binary.LittleEndian.Uint32(c.state[runReason:]); reason {
		case exitIO:
			if c.state[runReady] != 0 {
				vector := uint32(interruptVector)
				if _, err := request(c.fd, interrupt, uintptr(unsafe.Pointer(&vector))); err != nil {
					return fmt.Errorf("interrupt: %w", err)
				}
			}
		case exitHalt:
			time.Sleep(time.Millisecond)
		case exitIntr:
		default:
			return fmt.Errorf("it left for reason %d (%#x)", reason, binary.LittleEndian.Uint64(c.state[0x20:]))
		}
	}
	return nil
}
