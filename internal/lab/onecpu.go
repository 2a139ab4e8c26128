package lab

// OnOneCPU makes a script that patches code which the machine is running, such as
// that of its scheduler, do so while only one CPU is on line.
//
// QEMU before 8.1, which locks pages before it translates (accel/tcg, "Always lock
// pages before translation"), may translate an instruction while another CPU writes
// it, and keep what it translated of the bytes before: with several CPUs, each a
// thread of its own, in one write of very many. The kernel puts a breakpoint there
// meanwhile (text_poke_bp, arch/x86/kernel/alternative.c). A CPU that is left with
// that has it for good: the kernel finds no breakpoint in memory and tries the
// instruction again (kprobe_int3_handler), and again, and the machine answers no
// more. It is the more frequent, the busier guest and host are.
func OnOneCPU(script string) string {
	return `others=$(grep -lx 1 /sys/devices/system/cpu/cpu[1-9]*/online 2>/dev/null)
		for cpu in $others; do echo 0 > $cpu; done
		(` + script + `
		)
		status=$?
		for cpu in $others; do echo 1 > $cpu || status=1; done
		exit $status`
}
