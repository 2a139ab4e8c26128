package lab

// OnOneCPU makes a script that patches code which the machine is running, such as
// that of its scheduler, do so while only one CPU is on line. Otherwise QEMU may
// leave another at a breakpoint that the kernel has taken away (text_poke_bp,
// arch/x86/kernel/alternative.c), for good: see stale.go. It is the more frequent,
// the busier guest and host are.
func OnOneCPU(script string) string {
	return `others=$(grep -lx 1 /sys/devices/system/cpu/cpu[1-9]*/online 2>/dev/null)
		for cpu in $others; do echo 0 > $cpu; done
		(` + script + `
		)
		status=$?
		for cpu in $others; do echo 1 > $cpu || status=1; done
		exit $status`
}
