package kernel

import (
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Device is a network device (struct net_device).
type Device struct {
	At          mem.Virt
	Net         mem.Virt
	Name        string
	Flags       uint32
	Promiscuity uint32 // how many asked for all packets
}

// Promiscuous is IFF_PROMISC (include/uapi/linux/if.h).
const Promiscuous = 0x100

// PacketHook is who gets packets (struct packet_type): one of a protocol, or of
// all packets.
type PacketHook struct {
	At      mem.Virt
	Func    mem.Virt
	Private mem.Virt // the socket, where Func is one of AF_PACKET's for one socket
}

// Devices lists the devices of all network namespaces.
func (p *Profile) Devices() ([]Device, error) {
	var offsets [6]uint64
	for i, f := range [][2]string{{"net", "dev_base_head"}, {"net_device", "dev_list"}, {"net_device", "name"},
		{"net_device", "flags"}, {"net_device", "promiscuity"}} {
		var err error
		if offsets[i], err = p.Types.Offset(f[0], f[1]); err != nil {
			return nil, fmt.Errorf("network devices: %w", err)
		}
	}
	nets, err := p.Nets()
	if err != nil {
		return nil, fmt.Errorf("network devices: %w", err)
	}
	var out []Device
	for _, net := range nets {
		nodes, err := List(p.Space, net+mem.Virt(offsets[0]), maxDevices)
		if err != nil {
			return out, fmt.Errorf("network devices: %w", err)
		}
		for _, at := range nodes {
			at -= mem.Virt(offsets[1])
			name, err1 := p.Space.CString(at+mem.Virt(offsets[2]), 16) // IFNAMSIZ
			flags, err2 := p.Space.U32(at + mem.Virt(offsets[3]))
			promiscuity, err3 := p.Space.U32(at + mem.Virt(offsets[4]))
			if err := errors.Join(err1, err2, err3); err != nil {
				return out, fmt.Errorf("network devices: %w", err)
			}
			out = append(out, Device{at, net, name, flags, promiscuity})
		}
	}
	return out, nil
}

// PacketHooks lists who gets packets: of all devices (ptype_all, until 6.14 one
// for all namespaces), by protocol (ptype_base), and of each device.
func (p *Profile) PacketHooks(devices []Device) ([]PacketHook, error) {
	link, err1 := p.Types.Offset("packet_type", "list")
	function, err2 := p.Types.Offset("packet_type", "func")
	private, err3 := p.Types.Offset("packet_type", "af_packet_priv")
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, fmt.Errorf("packet hooks: %w", err)
	}
	var out []PacketHook
	for _, head := range p.hookHeads(devices) {
		nodes, err := List(p.Space, head, maxSockets)
		if err != nil {
			return out, fmt.Errorf("packet hooks: %w", err)
		}
		for _, at := range nodes {
			at -= mem.Virt(link)
			f, err1 := p.Space.U64(at + mem.Virt(function))
			priv, err2 := p.Space.U64(at + mem.Virt(private))
			if err := errors.Join(err1, err2); err != nil {
				return out, fmt.Errorf("packet hooks: %w", err)
			}
			out = append(out, PacketHook{at, mem.Virt(f), mem.Virt(priv)})
		}
	}
	return out, nil
}

// hookHeads are the heads of the lists that this kernel has.
func (p *Profile) hookHeads(devices []Device) []mem.Virt {
	var heads []mem.Virt
	if at, ok := p.Symbol("ptype_all"); ok {
		heads = append(heads, at)
	}
	if at, ok := p.Symbol("ptype_base"); ok {
		for i := range 16 { // PTYPE_HASH_SIZE
			heads = append(heads, at+mem.Virt(16*i))
		}
	}
	seen := make(map[mem.Virt]bool)
	for _, d := range devices {
		for _, member := range []string{"ptype_all", "ptype_specific"} {
			if off, err := p.Types.Offset("net_device", member); err == nil {
				heads = append(heads, d.At+mem.Virt(off))
			}
			if off, err := p.Types.Offset("net", member); err == nil && !seen[d.Net] {
				heads = append(heads, d.Net+mem.Virt(off))
			}
		}
		seen[d.Net] = true
	}
	return heads
}
