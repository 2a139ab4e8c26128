package mem

// SystemCalls are the model-specific registers of one CPU through which system
// calls enter the kernel (AMD64 APM vol. 2, 6.1; Intel SDM vol. 4, table 2-2).
type SystemCalls struct {
	CPU int // as in [Registers]

	STAR  uint64 // 0xC0000081: segments
	LSTAR uint64 // 0xC0000082: where SYSCALL enters from 64-bit code
	CSTAR uint64 // 0xC0000083: where it enters from 32-bit code
	FMASK uint64 // 0xC0000084: flags that SYSCALL clears

	SysenterCS  uint64 // 0x174
	SysenterESP uint64 // 0x175
	SysenterEIP uint64 // 0x176

	// Virtualization is as in [Registers]; if it has Unread, the others are zero.
	Virtualization *Virtualization
}
