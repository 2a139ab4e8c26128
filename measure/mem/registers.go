package mem

// Registers is the state of one virtual CPU, as far as the source tells it. The
// registers of system calls are apart, in [SystemCalls]: neither QEMU's "info
// registers" nor the notes of its dumps have them.
type Registers struct {
	CPU int // the VMM's index

	RIP, RSP, RFLAGS   uint64
	CR0, CR2, CR3, CR4 uint64
	EFER               uint64
	CPL                int // current privilege level, 0 to 3
	GSBase, FSBase     Virt
	IDT, GDT           Table
	TR, LDT, CS        Segment
	DR                 [8]uint64 // DR4 and DR5 are not used

	// SMM says that the CPU was in system management mode: all else is what the
	// firmware's handler has, not the kernel (Intel SDM vol. 3C, 33.5).
	SMM bool

	// Missing names what the source does not tell, such as "EFER".
	Missing []string

	// Virtualization is nil where virtualization is off, or the source does not tell.
	Virtualization *Virtualization
}

// Table is a descriptor table register (Intel SDM vol. 3A, 2.4).
type Table struct {
	Base  Virt
	Limit uint32 // bytes minus one
}

// Segment is a segment register with its hidden part (Intel SDM vol. 3A, 3.4.3).
type Segment struct {
	Selector uint16
	Base     Virt
	Limit    uint32
	Flags    uint32 // bytes 4 to 7 of the descriptor as QEMU prints them
}

// Control register bits (Intel SDM vol. 3A, 2.5; EFER: 2.2.1).
const (
	CR0WP    = 1 << 16
	CR0PG    = 1 << 31
	CR4PAE   = 1 << 5
	CR4UMIP  = 1 << 11
	CR4LA57  = 1 << 12
	CR4VMXE  = 1 << 13
	CR4SMEP  = 1 << 20
	CR4SMAP  = 1 << 21
	EFERSCE  = 1 << 0
	EFERLME  = 1 << 8
	EFERLMA  = 1 << 10
	EFERNXE  = 1 << 11
	EFERSVME = 1 << 12
)

// Known reports whether the source told the register of that name.
func (r *Registers) Known(name string) bool {
	for _, m := range r.Missing {
		if m == name {
			return false
		}
	}
	return true
}
