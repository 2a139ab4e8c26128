package pkgdb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// capNumbers are Linux 6.1's capabilities (include/uapi/linux/capability.h).
var capNumbers = func() map[string]int {
	m := map[string]int{}
	for i, name := range strings.Fields(`chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap
		linux_immutable net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio
		sys_chroot sys_ptrace sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease
		audit_write audit_control setfcap mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf
		checkpoint_restore`) {
		m["cap_"+name] = i
	}
	return m
}()

var errCapabilities = errors.New("capabilities that are not understood")

// fileCapabilities gives the extended attribute security.capability that rpm sets
// for a text of cap_from_text(3): clauses of names, joined by commas, and
// operations "=", "+" or "-" with some of the flags e, i and p. Those that name
// all capabilities depend on the kernel that knows them: an error, as everything
// is that is not understood.
//
// The attribute is a revision (2) with the effective flag in bit 0, then permitted
// and inheritable for capabilities 0 to 31 and 32 to 63, little-endian 32 bits each
// (struct vfs_cap_data, include/uapi/linux/capability.h of Linux 6.1).
func fileCapabilities(text string) ([]byte, error) {
	var permitted, inheritable, effective uint64
	sets := map[byte]*uint64{'e': &effective, 'i': &inheritable, 'p': &permitted}
	for _, clause := range strings.Fields(text) {
		at := strings.IndexAny(clause, "=+-")
		if at < 0 {
			return nil, fmt.Errorf("%w: %q", errCapabilities, text)
		}
		var bits uint64
		for _, name := range strings.Split(clause[:at], ",") {
			n, ok := capNumbers[strings.ToLower(name)]
			if !ok && (clause != "=" || name != "") { // "=" alone takes all away
				return nil, fmt.Errorf("%w: %q", errCapabilities, text)
			}
			if clause != "=" {
				bits |= 1 << n
			}
		}
		if clause == "=" {
			bits = ^uint64(0)
		}
		op := byte(0)
		for i := at; i < len(clause); i++ {
			switch c := clause[i]; {
			case strings.IndexByte("=+-", c) >= 0:
				if op = c; op == '=' {
					permitted, inheritable, effective = permitted&^bits, inheritable&^bits, effective&^bits
				}
			case sets[c] == nil:
				return nil, fmt.Errorf("%w: %q", errCapabilities, text)
			case op == '-':
				*sets[c] &^= bits
			default:
				*sets[c] |= bits
			}
		}
	}
	// One flag stands for all: either none of them is effective, or all that a
	// program could have are.
	if permitted|inheritable == 0 || effective != 0 && effective != permitted|inheritable {
		return nil, fmt.Errorf("%w: %q", errCapabilities, text)
	}
	revision := uint32(0x02000000)
	if effective != 0 {
		revision |= 1
	}
	b := binary.LittleEndian.AppendUint32(nil, revision)
	for _, word := range []uint64{permitted, inheritable, permitted >> 32, inheritable >> 32} {
		b = binary.LittleEndian.AppendUint32(b, uint32(word))
	}
	return b, nil
}
