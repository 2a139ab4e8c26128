package lab

import (
	"context"
	"errors"
)

// socketTampers hide who listens to the network.
var socketTampers = []Tamper{
	{
		Name: "packet-socket-hidden", Check: "linux.sockets",
		Doc:   "take a sniffer's socket off the list of packet sockets",
		apply: hideSocket("init_net", "net", "packet.sklist", 1),
	},
	{
		Name: "raw-socket-hidden", Check: "linux.sockets",
		Doc:   "take a raw socket out of the table of these",
		apply: hideSocket("raw_v4_hashinfo", "raw_hashinfo", "ht", 256),
	},
	{
		Name: "promiscuous-hidden", Check: "linux.sockets",
		Doc:   "have a device listen to all packets and take the flag that says so away",
		apply: hidePromiscuous,
	},
}

const (
	openSockets = `python3 -c '
import socket, time
a = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
b = socket.socket(socket.AF_INET, socket.SOCK_RAW, 253)
open("/run/lab-sockets-open", "w").close()
time.sleep(86400)' <&- >/dev/null 2>&1 &
		echo $! > /run/lab-sockets
		for try in $(seq 3000); do if [ -e /run/lab-sockets-open ]; then exit 0; fi; sleep 0.1; done
		exit 1`
	closeSockets = `[ -e /run/lab-sockets ] || exit 0
		pid=$(cat /run/lab-sockets)
		kill $pid
		for try in $(seq 3000); do [ -d /proc/$pid ] || break; sleep 0.1; done
		rm -f /run/lab-sockets /run/lab-sockets-open`
)

// hideSocket opens sockets and unlinks the first on one of some lists (struct
// hlist_head, or the like whose end is odd).
func hideSocket(variable, structure, member string, heads uint64) func(context.Context, *change) error {
	return func(ctx context.Context, c *change) error {
		if err := c.shell(ctx, openSockets, closeSockets); err != nil {
			return err
		}
		at, err := c.symbols(ctx, variable)
		if err != nil {
			return err
		}
		offset, err := c.offset(ctx, structure, member)
		if err != nil {
			return err
		}
		mem, err := c.memory(ctx)
		if err != nil {
			return err
		}
		for i := range heads {
			head := at[0] + offset + 8*i
			node, err := mem.readWord(head)
			if err != nil {
				return err
			}
			if node == 0 || node&1 != 0 {
				continue
			}
			next, err := mem.readWord(node)
			if err != nil {
				return err
			}
			if next != 0 && next&1 == 0 {
				if err := c.write(ctx, next+8, word(head)); err != nil {
					return err
				}
			}
			return c.write(ctx, head, word(next))
		}
		return errors.New("the list has no socket")
	}
}

// hidePromiscuous changes the flags of eth0.
func hidePromiscuous(ctx context.Context, c *change) error {
	if err := c.shell(ctx, "ip link set eth0 promisc on", "ip link set eth0 promisc off"); err != nil {
		return err
	}
	at, err := c.symbols(ctx, "init_net")
	if err != nil {
		return err
	}
	var offsets [4]uint64
	for i, f := range [][2]string{{"net", "dev_base_head"}, {"net_device", "dev_list"}, {"net_device", "name"}, {"net_device", "flags"}} {
		if offsets[i], err = c.offset(ctx, f[0], f[1]); err != nil {
			return err
		}
	}
	mem, err := c.memory(ctx)
	if err != nil {
		return err
	}
	entry := at[0] + offsets[0]
	for range maxList {
		if entry, err = mem.readWord(entry); err != nil {
			return err
		}
		device := entry - offsets[1]
		name := make([]byte, 5)
		if err := mem.read(device+offsets[2], name); err != nil {
			return err
		}
		if string(name) == "eth0\x00" {
			var flags [2]byte
			if err := mem.read(device+offsets[3], flags[:]); err != nil {
				return err
			}
			return c.write(ctx, device+offsets[3]+1, []byte{flags[1] &^ 1}) // IFF_PROMISC is 0x100
		}
	}
	return errors.New("no device eth0")
}
