package kernel

import (
	"errors"
	"fmt"

	"github.com/plumbline-sec/plumbline/internal/bin"
	"github.com/plumbline-sec/plumbline/measure/mem"
)

// Families and types of sockets that see whole packets (include/linux/socket.h,
// include/linux/net.h).
const (
	FamilyINET   = 2
	FamilyINET6  = 10
	FamilyPacket = 17
	typeRaw      = 3
)

// Socket is a socket that sees whole packets: one of AF_PACKET, or a raw one of
// AF_INET or AF_INET6 (struct sock).
type Socket struct {
	At       mem.Virt
	Net      mem.Virt // its network namespace
	Family   uint16
	Type     uint16
	Protocol uint16
	Hashed   bool // has a number by which raw ones are found
	Open     bool // a file of some process is behind it
}

// Limits on what the target may claim.
const (
	maxNets    = 1 << 16
	maxDevices = 1 << 16
	maxSockets = 1 << 20
	maxFiles   = 1 << 20 // descriptors of one process
)

// sockets holds offsets for reading sockets.
type sockets struct {
	*Profile
	family, net, node, kind, protocol, number, socket uint64 // in struct sock
	sk, file                                          uint64 // in struct socket
}

func (p *Profile) sockets() (*sockets, error) {
	s := &sockets{Profile: p}
	for _, f := range []struct {
		into *uint64
		of   string
		path []string
	}{
		{&s.family, "sock", []string{"__sk_common", "skc_family"}}, {&s.net, "sock", []string{"__sk_common", "skc_net", "net"}},
		{&s.node, "sock", []string{"__sk_common", "skc_node"}}, {&s.kind, "sock", []string{"sk_type"}},
		{&s.protocol, "sock", []string{"sk_protocol"}}, {&s.number, "sock", []string{"__sk_common", "skc_num"}},
		{&s.socket, "sock", []string{"sk_socket"}}, {&s.sk, "socket", []string{"sk"}}, {&s.file, "socket", []string{"file"}},
	} {
		var err error
		if *f.into, err = p.Types.Offset(f.of, f.path...); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *sockets) u16(at mem.Virt) (uint16, error) {
	var b [2]byte
	err := s.Space.Read(b[:], at)
	return uint16(b[0]) | uint16(b[1])<<8, err
}

// read reads a socket; ok if it sees whole packets.
func (s *sockets) read(at mem.Virt) (out Socket, ok bool, err error) {
	out.At = at
	var errs [6]error
	out.Family, errs[0] = s.u16(at + mem.Virt(s.family))
	out.Type, errs[1] = s.u16(at + mem.Virt(s.kind))
	out.Protocol, errs[2] = s.u16(at + mem.Virt(s.protocol))
	number, err3 := s.u16(at + mem.Virt(s.number))
	net, err4 := s.Space.U64(at + mem.Virt(s.net))
	socket, err5 := s.Space.U64(at + mem.Virt(s.socket))
	errs[3], errs[4], errs[5] = err3, err4, err5
	if err := errors.Join(errs[:]...); err != nil {
		return out, false, err
	}
	out.Net, out.Hashed = mem.Virt(net), number != 0
	if socket != 0 {
		file, err := s.Space.U64(mem.Virt(socket + s.file))
		out.Open = err == nil && file != 0
	}
	return out, out.Family == FamilyPacket || (out.Family == FamilyINET || out.Family == FamilyINET6) && out.Type == typeRaw, nil
}

// Nets lists the network namespaces (net_namespace_list).
func (p *Profile) Nets() ([]mem.Virt, error) {
	head, ok := p.Symbol("net_namespace_list")
	link, err := p.Types.Offset("net", "list")
	if !ok || err != nil {
		return nil, fmt.Errorf("network namespaces: %w (%w)", ErrNoSymbols, err)
	}
	nodes, err := List(p.Space, head, maxNets)
	for i := range nodes {
		nodes[i] -= mem.Virt(link)
	}
	return nodes, err
}

// ListedSockets lists the sockets that the kernel's own lists show: those of
// AF_PACKET by each namespace's (net.packet.sklist), raw ones by the tables in
// which packets find them.
func (p *Profile) ListedSockets() ([]Socket, error) {
	s, err := p.sockets()
	if err != nil {
		return nil, fmt.Errorf("sockets: %w", err)
	}
	nets, err1 := p.Nets()
	list, err2 := p.Types.Offset("net", "packet", "sklist")
	table, err3 := p.Types.Member("raw_hashinfo", "ht")
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, fmt.Errorf("sockets: %w", err)
	}
	var heads []mem.Virt
	for _, net := range nets {
		heads = append(heads, net+mem.Virt(list))
	}
	for _, name := range []string{"raw_v4_hashinfo", "raw_v6_hashinfo"} {
		if at, ok := p.Symbol(name); ok && table.Size <= mem.PageSize {
			for i := uint64(0); i < table.Size; i += 8 {
				heads = append(heads, at+mem.Virt(table.Offset+i))
			}
		}
	}
	var out []Socket
	for _, head := range heads {
		node, err := p.Space.U64(head)
		for ; err == nil && node != 0 && node&1 == 0; node, err = p.Space.U64(mem.Virt(node)) {
			if len(out) == maxSockets {
				return out, fmt.Errorf("sockets: %w", ErrListTooLong)
			}
			var found Socket
			if found, _, err = s.read(mem.Virt(node - s.node)); err != nil {
				break
			}
			out = append(out, found)
		}
		if err != nil {
			return out, fmt.Errorf("sockets: %w", err)
		}
	}
	return out, nil
}

// SocketsInMemory finds sockets among all that memory holds of the inodes of
// sockets (sock_inode_cachep, struct socket_alloc, which begins with the struct
// socket; as of 7.2 it is within struct sockfs_inode). The error is [ErrSlab] if
// there is no socket of any kind where they should lie: the kernel has some itself.
func (p *Profile) SocketsInMemory() ([]Socket, error) {
	s, err := p.sockets()
	if err != nil {
		return nil, fmt.Errorf("sockets in memory: %w", err)
	}
	cache, err := p.SlabCache("sock_inode_cachep")
	if err != nil {
		return nil, fmt.Errorf("sockets in memory: %w", err)
	}
	places, err := p.SlabObjects(cache)
	if err != nil {
		return nil, fmt.Errorf("sockets in memory: %w", err)
	}
	var out []Socket
	some := false
	first, err := p.Types.Offset("sockfs_inode", "socket")
	if err != nil {
		first = 0
	}
	for _, at := range places[0] {
		at += mem.Virt(first)
		sk, err := p.Space.U64(at + mem.Virt(s.sk))
		if err != nil || sk>>47 == 0 {
			continue
		}
		back, err := p.Space.U64(mem.Virt(sk + s.socket))
		if err != nil || mem.Virt(back) != at {
			continue // freed, or never filled
		}
		some = true
		if found, ok, err := s.read(mem.Virt(sk)); err == nil && ok {
			out = append(out, found)
		}
	}
	if !some {
		return nil, fmt.Errorf("sockets in memory: %w", ErrSlab)
	}
	return out, nil
}

// SocketFiles finds sockets by the open files of tasks, and says whose they are.
func (p *Profile) SocketFiles(tasks []Task) (map[Socket]Task, error) {
	s, err := p.sockets()
	if err != nil {
		return nil, fmt.Errorf("files of sockets: %w", err)
	}
	operations, ok := p.Symbol("socket_file_ops")
	if !ok {
		return nil, fmt.Errorf("files of sockets: %w", ErrNoSymbols)
	}
	var offsets [6]uint64
	for i, f := range [][2]string{{"task_struct", "files"}, {"files_struct", "fdt"}, {"fdtable", "max_fds"}, {"fdtable", "fd"}, {"file", "f_op"}, {"file", "private_data"}} {
		if offsets[i], err = p.Types.Offset(f[0], f[1]); err != nil {
			return nil, fmt.Errorf("files of sockets: %w", err)
		}
	}
	out := make(map[Socket]Task)
	seen := make(map[uint64]bool)
	for _, task := range tasks {
		files, err := p.Space.U64(task.At + mem.Virt(offsets[0]))
		if err != nil || files == 0 || seen[files] {
			continue
		}
		seen[files] = true
		table, err1 := p.Space.U64(mem.Virt(files + offsets[1]))
		count, err2 := p.Space.U32(mem.Virt(table + offsets[2]))
		array, err3 := p.Space.U64(mem.Virt(table + offsets[3]))
		if errors.Join(err1, err2, err3) != nil || count > maxFiles {
			continue // it ended meanwhile
		}
		raw := make([]byte, 8*count)
		if p.Space.Read(raw, mem.Virt(array)) != nil {
			continue
		}
		for c := bin.Little(raw); c.Len() >= 8; {
			file := c.U64()
			if file == 0 {
				continue
			}
			if op, err := p.Space.U64(mem.Virt(file + offsets[4])); err != nil || mem.Virt(op) != operations {
				continue
			}
			socket, err1 := p.Space.U64(mem.Virt(file + offsets[5]))
			sk, err2 := p.Space.U64(mem.Virt(socket + s.sk))
			if errors.Join(err1, err2) != nil || sk == 0 {
				continue
			}
			if found, ok, err := s.read(mem.Virt(sk)); err == nil && ok {
				out[found] = task
			}
		}
	}
	return out, nil
}
