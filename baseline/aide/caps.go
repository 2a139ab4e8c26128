package aide

import (
	"encoding/binary"
	"strings"
)

// capNames are Linux 6.1's capabilities by number (include/uapi/linux/capability.h).
var capNames = strings.Fields(`chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap
linux_immutable net_bind_service net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio
sys_chroot sys_ptrace sys_pacct sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease
audit_write audit_control setfcap mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf
checkpoint_restore`)

// What a file gives of one capability; the order of states is that of libcap.
const (
	capEffective = 1 << iota
	capPermitted
	capInheritable
)

// capabilities is the text form of cap_to_text(3) in libcap 2.66, "" for a value
// that is none. The xattr is a revision with the effective flag in bit 0
// (0x00), then permitted and inheritable, 32 capabilities each, once (revision
// 1) or twice (2, 3), little-endian (struct vfs_ns_cap_data).
func capabilities(value []byte) string {
	if len(value) < 12 {
		return ""
	}
	words := map[uint32]int{0x01000000: 1, 0x02000000: 2, 0x03000000: 2}[binary.LittleEndian.Uint32(value)&0xff000000]
	if words == 0 || len(value) < 4+8*words {
		return ""
	}
	state := make([]int, len(capNames)) // the kernel knows no others
	for n := range min(32*words, len(state)) {
		at := value[4+n/32*8:]
		bit := uint32(1) << (n % 32)
		if binary.LittleEndian.Uint32(at)&bit != 0 {
			state[n] |= capPermitted
		}
		if binary.LittleEndian.Uint32(at[4:])&bit != 0 {
			state[n] |= capInheritable
		}
		if state[n] != 0 && value[0]&1 != 0 {
			state[n] |= capEffective
		}
	}
	return capText(state)
}

// capText names the commonest state first, then the capabilities that differ
// from it, by state from the fullest down.
func capText(state []int) string {
	var count [8]int
	for _, t := range state {
		count[t]++
	}
	common := 7
	for t := 6; t >= 0; t-- {
		if count[t] >= count[common] {
			common = t
		}
	}
	var parts []string
	if common != 0 {
		parts = append(parts, "="+capFlags(common))
	}
	for t := 7; t >= 0; t-- {
		if t == common || count[t] == 0 {
			continue
		}
		var names []string
		for n, name := range capNames {
			if state[n] == t {
				names = append(names, "cap_"+name)
			}
		}
		part := strings.Join(names, ",")
		if more := t &^ common; more != 0 {
			sign := "+"
			if len(parts) == 0 {
				sign = "="
			}
			part += sign + capFlags(more)
		}
		if less := common &^ t; less != 0 {
			part += "-" + capFlags(less)
		}
		parts = append(parts, part)
	}
	if len(parts) == 0 {
		return "="
	}
	return strings.Join(parts, " ")
}

func capFlags(t int) string {
	var b strings.Builder
	for _, f := range []struct {
		flag   int
		letter byte
	}{{capEffective, 'e'}, {capInheritable, 'i'}, {capPermitted, 'p'}} {
		if t&f.flag != 0 {
			b.WriteByte(f.letter)
		}
	}
	return b.String()
}
