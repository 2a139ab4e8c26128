package oob

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// ErrNoLink: no QEMU is connected to the BMC, so its machine cannot be told
// anything.
var ErrNoLink = errors.New("no virtual machine is connected to the BMC")

// Control commands from the BMC to QEMU, each followed by controlEnd (QEMU,
// hw/ipmi/ipmi_bmc_extern.c, VM_CMD_*).
const (
	controlPowerOff = 0x03
	controlEnd      = 0xA1
)

// VMLink is the one connection that QEMU's ipmi-bmc-extern holds. The library
// serves connections one after the other and would leave a QEMU that was
// restarted waiting behind its dead predecessor: a new connection closes the
// one before it. The zero value is a link to nobody.
type VMLink struct {
	mu      sync.Mutex
	current net.Conn
}

func (l *VMLink) listener(inner net.Listener) net.Listener {
	accepted := &linkListener{Listener: inner, link: l, conns: make(chan net.Conn), done: make(chan struct{})}
	go accepted.run()
	return accepted
}

func (l *VMLink) replace(conn net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if old, ok := l.current.(*linkConn); ok {
		old.Conn.Close()
	}
	l.current = conn
}

// Connected reports whether a QEMU holds the link.
func (l *VMLink) Connected() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.current != nil
}

// send writes one control command. The library writes whole answers with one
// call each, and so does send: on a stream socket they cannot interleave.
func (l *VMLink) send(control byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.current == nil {
		return ErrNoLink
	}
	l.current.SetWriteDeadline(time.Now().Add(time.Second))
	defer l.current.SetWriteDeadline(time.Time{})
	if _, err := l.current.Write([]byte{control, controlEnd}); err != nil {
		return fmt.Errorf("tell the virtual machine: %w", err)
	}
	return nil
}

// linkConn takes itself off its link when it is closed.
type linkConn struct {
	net.Conn
	link *VMLink
}

func (c *linkConn) Close() error {
	c.link.mu.Lock()
	if c.link.current == c {
		c.link.current = nil
	}
	c.link.mu.Unlock()
	return c.Conn.Close()
}

// linkListener accepts ahead of the server so that a newcomer is noticed while
// an old connection is still being served.
type linkListener struct {
	net.Listener
	link  *VMLink
	conns chan net.Conn
	done  chan struct{}
	err   error
	once  sync.Once
}

func (l *linkListener) run() {
	defer close(l.conns)
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			l.err = err
			return
		}
		conn = &linkConn{Conn: conn, link: l.link}
		l.link.replace(conn)
		select {
		case l.conns <- conn:
		case <-l.done:
			conn.Close()
			return
		}
	}
}

func (l *linkListener) Accept() (net.Conn, error) {
	conn, ok := <-l.conns
	if !ok {
		return nil, l.err
	}
	return conn, nil
}

func (l *linkListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Listener.Close()
}
