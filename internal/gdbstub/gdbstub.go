// Package gdbstub speaks the GDB remote serial protocol to QEMU.
//
// Connecting stops the machine; Close detaches and lets it run. It is enough
// to read and write registers of each CPU by name.
//
// Source: GDB manual, appendix E (Remote Serial Protocol); QEMU, gdbstub.c.
package gdbstub

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

var (
	// ErrProtocol: the peer broke the protocol.
	ErrProtocol = errors.New("not the GDB remote protocol")
	// ErrRefused: the stub answered a request with an error.
	ErrRefused = errors.New("refused by the gdb stub")
	// ErrNoRegister: the target description has no such register.
	ErrNoRegister = errors.New("no such register")
)

// maxPacket bounds one packet of the peer. QEMU's own are at most 4 KiB.
const maxPacket = 1 << 20

// packetTimeout bounds the wait for one answer.
const packetTimeout = time.Minute

// Client is a connection to a stub. It is not safe for concurrent use.
type Client struct {
	conn      net.Conn
	r         *bufio.Reader
	registers map[string]register
	threads   []string // one per CPU, in order
}

// Dial connects to the stub's Unix socket, which stops the machine, and reads
// what registers and CPUs there are.
func Dial(ctx context.Context, path string) (*Client, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("connect to gdb stub: %w", err)
	}
	c := &Client{conn: conn, r: bufio.NewReader(conn)}
	if err := c.open(); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func (c *Client) open() error {
	// With multiprocess the stub groups CPUs into processes, which QEMU does
	// for any client that can take it; all CPUs of a machine are process 1.
	if _, err := c.request("qSupported:multiprocess+;xmlRegisters=i386"); err != nil {
		return err
	}
	// QEMU answers register requests only after it was asked for this.
	if err := c.readDescription(); err != nil {
		return err
	}
	return c.readThreads()
}

// Close detaches, upon which the machine runs on, and disconnects.
func (c *Client) Close() error {
	_, err := c.request("D;1")
	return errors.Join(err, c.conn.Close())
}

// CPUs is the number of CPUs.
func (c *Client) CPUs() int { return len(c.threads) }

// readThreads lists the CPUs.
func (c *Client) readThreads() error {
	answer, err := c.request("qfThreadInfo")
	for ; err == nil && strings.HasPrefix(answer, "m"); answer, err = c.request("qsThreadInfo") {
		c.threads = append(c.threads, strings.Split(answer[1:], ",")...)
		if len(c.threads) > 4096 {
			return fmt.Errorf("thread list without end: %w", ErrProtocol)
		}
	}
	if err != nil {
		return err
	}
	if answer != "l" || len(c.threads) == 0 {
		return fmt.Errorf("thread list ends in %q: %w", answer, ErrProtocol)
	}
	return nil
}

// request sends one packet and returns the answer to it.
func (c *Client) request(body string) (string, error) {
	if err := c.conn.SetDeadline(time.Now().Add(packetTimeout)); err != nil {
		return "", err
	}
	if err := c.send(body); err != nil {
		return "", fmt.Errorf("gdb stub: %w", err)
	}
	for {
		answer, err := c.receive()
		if err != nil {
			return "", fmt.Errorf("gdb stub: %s: %w", body, err)
		}
		// The stop that connecting causes is reported whenever it happens.
		if strings.HasPrefix(answer, "T") {
			continue
		}
		if len(answer) == 3 && answer[0] == 'E' {
			return "", fmt.Errorf("gdb stub: %s: %w: %s", body, ErrRefused, answer)
		}
		return answer, nil
	}
}

func (c *Client) send(body string) error {
	_, err := fmt.Fprintf(c.conn, "$%s#%02x", body, checksum(body))
	return err
}

// receive reads one packet and acknowledges it, passing over acknowledgements
// of ours.
func (c *Client) receive() (string, error) {
	for {
		b, err := c.r.ReadByte()
		if err != nil {
			return "", err
		}
		switch b {
		case '+':
		case '$':
			return c.receiveBody()
		default:
			return "", fmt.Errorf("byte %#x between packets: %w", b, ErrProtocol)
		}
	}
}

func (c *Client) receiveBody() (string, error) {
	var body []byte
	for {
		b, err := c.r.ReadByte()
		if err != nil {
			return "", err
		}
		if b == '#' {
			break
		}
		if len(body) == maxPacket {
			return "", fmt.Errorf("packet over %d bytes: %w", maxPacket, ErrProtocol)
		}
		body = append(body, b)
	}
	var digits [2]byte
	for i := range digits {
		var err error
		if digits[i], err = c.r.ReadByte(); err != nil {
			return "", err
		}
	}
	sum, err := hex.DecodeString(string(digits[:]))
	if err != nil || sum[0] != checksum(string(body)) {
		return "", fmt.Errorf("checksum: %w", ErrProtocol)
	}
	if _, err := c.conn.Write([]byte{'+'}); err != nil {
		return "", err
	}
	return decode(body)
}

// decode undoes escapes ('}', then the byte with bit 5 inverted) and run
// lengths ('*', then the count of further copies plus 29).
func decode(body []byte) (string, error) {
	var out []byte
	for i := 0; i < len(body); i++ {
		switch b := body[i]; {
		case b != '}' && b != '*':
			out = append(out, b)
			continue
		case i+1 == len(body) || b == '*' && (len(out) == 0 || body[i+1] < 29):
			return "", fmt.Errorf("escape at the end: %w", ErrProtocol)
		case b == '}':
			out = append(out, body[i+1]^0x20)
		default:
			for range body[i+1] - 29 {
				out = append(out, out[len(out)-1])
			}
		}
		i++
		if len(out) > 16*maxPacket {
			return "", fmt.Errorf("packet expands without end: %w", ErrProtocol)
		}
	}
	return string(out), nil
}

func checksum(body string) byte {
	var sum byte
	for i := range len(body) {
		sum += body[i]
	}
	return sum
}
