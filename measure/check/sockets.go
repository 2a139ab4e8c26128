package check

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// linux.sockets: sockets that see whole packets, of AF_PACKET and raw ones of
// IPv4 and IPv6, show in the kernel's lists of them if they show anywhere: among
// the files of processes, in the memory of sockets, where packets are handed
// out. A device that listens to all packets says so in its flags.
//
// Proves: that no sniffer hides from the lists, which are what /proc/net/packet,
// /proc/net/raw and ss read, and that whoever gets packets is the start of a
// function of approved text. Trusts: that a socket has one of these views. It
// cannot see a sniffer that is no socket, such as a BPF program or a netfilter
// hook, nor one that hides in all views at once.
const socketsName = "linux.sockets"

func socketsCheck() check {
	return check{name: socketsName, collect: collectSockets, judge: judgeSockets}
}

// socketsData are the facts of linux.sockets.
type socketsData struct {
	Sockets []socketFact   `json:"sockets,omitempty"`
	Hidden  []hiddenSocket `json:"hidden,omitempty"`
	Devices []deviceFact   `json:"devices"`
	Hooks   []pointer      `json:"hooks"`
	Blind   []string       `json:"blind,omitempty"`  // views that this kernel does not give, and why
	Unread  []string       `json:"unread,omitempty"` // views that could not be read, and why
	// Arrived are modules that get packets and came while the scan ran: nothing says
	// where their functions start.
	Arrived []string `json:"arrived,omitempty"`
}

// socketFact is a socket that sees whole packets.
type socketFact struct {
	At       address `json:"at"`
	Net      address `json:"net"` // its network namespace
	Family   uint16  `json:"family"`
	Type     uint16  `json:"type"`
	Protocol uint16  `json:"protocol"`
	Owner    string  `json:"owner,omitempty"` // a process that has it open
}

// hiddenSocket is one that the kernel's lists lack.
type hiddenSocket struct {
	socketFact
	View string `json:"view"` // which shows it
}

type deviceFact struct {
	Name        string  `json:"name"`
	Net         address `json:"net"`
	Flags       uint32  `json:"flags"`
	Promiscuity uint32  `json:"promiscuity"`
}

func collectSockets(c *collector) (any, measure.Coverage, error) {
	var data socketsData
	hidden, err := lasting(c.ctx, func() (map[hiddenSocket]bool, error) {
		seen, found, err := c.compareSockets()
		if err == nil {
			data = seen
		}
		return found, err
	})
	if err != nil {
		return nil, measure.Coverage{}, err
	}
	data.Hidden = slices.SortedFunc(maps.Keys(hidden), func(a, b hiddenSocket) int {
		return cmp.Or(cmp.Compare(a.At, b.At), cmp.Compare(a.View, b.View))
	})
	return data, measure.Coverage{Objects: int64(len(data.Sockets) + len(data.Hooks) + len(data.Devices))}, nil
}

// compareSockets reads the views once.
func (c *collector) compareSockets() (socketsData, map[hiddenSocket]bool, error) {
	var data socketsData
	listed, err1 := c.profile.ListedSockets()
	devices, err2 := c.profile.Devices()
	hooks, err3 := c.profile.PacketHooks(devices)
	tasks, err4 := c.profile.Tasks()
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return data, nil, err
	}
	owners, err := c.profile.SocketFiles(tasks)
	if err != nil {
		return data, nil, err
	}
	inMemory, err := c.profile.SocketsInMemory()
	switch {
	case errors.Is(err, kernel.ErrSlab):
		data.Unread = append(data.Unread, err.Error())
	case err != nil:
		data.Blind = append(data.Blind, err.Error())
	}
	v := socketComparison{known: make(map[mem.Virt]bool), owners: make(map[mem.Virt]string), hidden: make(map[hiddenSocket]bool)}
	for s, task := range owners {
		v.owners[s.At] = fmt.Sprintf("%s (pid %d)", task.Comm, task.PID)
	}
	for _, s := range listed {
		v.known[s.At] = true
		data.Sockets = append(data.Sockets, v.fact(s))
	}
	for s := range owners {
		v.compare(s, "the files of processes")
	}
	for _, s := range inMemory {
		v.compare(s, "the inodes of sockets")
	}
	for _, d := range devices {
		data.Devices = append(data.Devices, deviceFact{d.Name, address(d.Net), d.Flags, d.Promiscuity})
	}
	modules := sync.OnceValue(func() []kernel.LoadedModule { list, _ := c.profile.Modules(); return list })
	for _, h := range hooks {
		p := c.pointer("packet_type.func", h.At, h.Func)
		if p.Symbol == "" {
			if name, ok := c.loadedSince(modules(), h.Func); ok {
				data.Arrived = append(data.Arrived, name)
				continue
			}
		}
		data.Hooks = append(data.Hooks, p)
		if slices.Contains(packetReceivers, p.Symbol) && !v.known[h.Private] {
			v.hidden[hiddenSocket{socketFact{At: address(h.Private), Family: kernel.FamilyPacket}, "the hooks that get packets"}] = true
		}
	}
	slices.SortFunc(data.Sockets, func(a, b socketFact) int { return cmp.Compare(a.At, b.At) })
	return data, v.hidden, nil
}

// packetReceivers are the functions by which one socket gets packets
// (net/packet/af_packet.c). Sockets that share theirs have packet_rcv_fanout.
var packetReceivers = []string{"packet_rcv", "tpacket_rcv", "packet_rcv_spkt"}

// socketComparison finds what the lists lack.
type socketComparison struct {
	known  map[mem.Virt]bool
	owners map[mem.Virt]string
	hidden map[hiddenSocket]bool
}

func (v *socketComparison) fact(s kernel.Socket) socketFact {
	return socketFact{address(s.At), address(s.Net), s.Family, s.Type, s.Protocol, v.owners[s.At]}
}

// compare notes a socket of a view that the lists lack. The kernel's own raw
// sockets, which answer ICMP, are on none; they have no file.
func (v *socketComparison) compare(s kernel.Socket, view string) {
	if !v.known[s.At] && (s.Family == kernel.FamilyPacket || s.Open && s.Hashed) {
		v.hidden[hiddenSocket{v.fact(s), view}] = true
	}
}

func judgeSockets(j *judging, raw json.RawMessage, out *measure.Check) error {
	var data socketsData
	if err := decode(raw, &data); err != nil {
		return err
	}
	if len(data.Devices) == 0 || len(data.Hooks) == 0 {
		return errNotObserved
	}
	if j.code.err != nil {
		return j.code.err
	}
	for _, s := range data.Hidden {
		out.Findings = append(out.Findings, measure.Finding{Address: s.At.String(), Symbol: s.owner(),
			Observed: s.String(), Explanation: "a socket that " + s.View + " show and the kernel's lists do not"})
	}
	for _, s := range data.Sockets {
		out.Notes = append(out.Notes, measure.Finding{Address: s.At.String(), Symbol: s.owner(), Observed: s.String(),
			Explanation: "a socket that sees whole packets"})
	}
	for _, d := range data.Devices {
		flagged := d.Flags&kernel.Promiscuous != 0
		switch {
		case flagged != (d.Promiscuity > 0):
			out.Findings = append(out.Findings, measure.Finding{Symbol: d.Name, Observed: fmt.Sprintf("flags %#x, asked for %d times", d.Flags, d.Promiscuity),
				Explanation: "whether the device listens to all packets is not what its flags say"})
		case flagged:
			out.Notes = append(out.Notes, measure.Finding{Symbol: d.Name, Explanation: "the device listens to all packets"})
		}
	}
	for _, p := range data.Hooks {
		if problem := j.lands(p); problem != "" {
			out.Findings = append(out.Findings, j.finding(p, "the start of a function", "who gets packets "+problem))
		}
	}
	if len(data.Arrived) > 0 {
		return fmt.Errorf("gets packets, and was loaded while the scan ran: %s", strings.Join(data.Arrived, ", "))
	}
	if len(data.Unread) > 0 {
		return errors.New(strings.Join(data.Unread, "; "))
	}
	remarks := []string{}
	if len(data.Blind) > 0 {
		remarks = append(remarks, "not seen: "+strings.Join(data.Blind, "; "))
	}
	if t := j.trusts(); t != "" {
		remarks = append(remarks, t)
	}
	out.Reason = strings.Join(remarks, "; ")
	return nil
}

func (s socketFact) owner() string {
	if s.Owner == "" {
		return "no process has it open"
	}
	return s.Owner
}

// String describes a socket as in socket(2).
func (s socketFact) String() string {
	family := map[uint16]string{kernel.FamilyINET: "AF_INET", kernel.FamilyINET6: "AF_INET6", kernel.FamilyPacket: "AF_PACKET"}[s.Family]
	kind := map[uint16]string{2: "SOCK_DGRAM", 3: "SOCK_RAW", 10: "SOCK_PACKET"}[s.Type]
	if s.Family == kernel.FamilyPacket { // has its protocol elsewhere
		return strings.TrimSpace(family + " " + kind)
	}
	return fmt.Sprintf("%s %s, protocol %d", family, kind, s.Protocol)
}
