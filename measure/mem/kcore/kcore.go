package kcore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/mem/dump"
)

var (
	// ErrLockdown is the error of all reading if the kernel keeps its memory
	// confidential.
	ErrLockdown = errors.New("the kernel is locked down for confidentiality: nobody may read its memory")
	// ErrNoKcore is the error of [Open] if the kernel has no /proc/kcore.
	ErrNoKcore = errors.New("the kernel does not offer its memory")
)

// Host is the machine this program runs on.
type Host struct {
	memory mem.Reader
	file   io.Closer
	msrs   string // directory of the msr module's devices
	cpus   string // file that lists the CPUs on line
}

const (
	kcorePath    = "/proc/kcore"
	lockdownPath = "/sys/kernel/security/lockdown"
)

// Open opens /proc/kcore. It needs root (CAP_SYS_RAWIO). A kernel that keeps its
// memory confidential is a machine of which nothing can be measured, and why: it
// is opened too.
func Open() (*Host, error) {
	f, err := os.Open(kcorePath)
	if err != nil {
		mode, _ := os.ReadFile(lockdownPath)
		if err = openError(err, string(mode)); errors.Is(err, ErrLockdown) {
			return newHost(locked{err}), nil
		}
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	// The size that is shown is where the last range would end.
	h, err := New(f, info.Size())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", kcorePath, err), f.Close())
	}
	h.file = f
	return h, nil
}

// New reads a file like /proc/kcore: an ELF core file with the ranges of the
// kernel's address space (Linux, fs/proc/kcore.c), of which those are taken that
// map RAM one to one.
func New(r io.ReaderAt, size int64) (*Host, error) {
	core, err := dump.New(&serial{r: r}, size)
	if err != nil {
		return nil, err
	}
	if core.Format != "elf" {
		return nil, fmt.Errorf("%w: it is %s", dump.ErrFormat, core.Format)
	}
	return newHost(core.Memory()), nil
}

func newHost(memory mem.Reader) *Host {
	return &Host{memory: memory, msrs: "/dev/cpu", cpus: "/sys/devices/system/cpu/online"}
}

// openError says why there is no /proc/kcore to be read. Mode is what the kernel
// shows of its lockdown, the mode it is in between brackets (security/lockdown).
func openError(err error, mode string) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %w", ErrNoKcore, err)
	case errors.Is(err, fs.ErrPermission) && strings.Contains(mode, "[confidentiality]"):
		return fmt.Errorf("%w: %w", ErrLockdown, err)
	}
	return err
}

// locked is memory that nobody may read.
type locked struct{ err error }

func (l locked) ReadPhys([]byte, mem.Phys) error { return l.err }
func (l locked) Extents() []mem.Extent           { return nil }

// Touched implements [mem.Toucher].
func (l locked) Touched() ([]mem.Extent, error) { return nil, l.err }

// Target names the machine.
func (h *Host) Target() measure.Target {
	name, _ := os.Hostname() // without one the kind must do
	return measure.Target{Kind: "host", Name: name}
}

// Memory reads the machine's RAM.
func (h *Host) Memory() mem.Reader { return h.memory }

// Registers returns none: user mode cannot read them.
func (h *Host) Registers(context.Context) ([]mem.Registers, error) { return nil, nil }

// Pause does nothing: a machine cannot stop itself and go on reading.
func (h *Host) Pause(context.Context) (resume func() error, err error) {
	return func() error { return nil }, nil
}

// PausedFor is zero: the machine is not stopped.
func (h *Host) PausedFor() time.Duration { return 0 }

// Close closes /proc/kcore.
func (h *Host) Close() error {
	if h.file == nil {
		return nil
	}
	return h.file.Close()
}

// serial lets one read at a time through: the kernel copies what it reads by way
// of one buffer for each open file and does not lock it (Linux 6.1, fs/proc/kcore.c,
// read_kcore), so reads at the same time return each other's bytes.
type serial struct {
	mu sync.Mutex
	r  io.ReaderAt
}

func (s *serial) ReadAt(p []byte, off int64) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.r.ReadAt(p, off)
}
