package gdbstub

import "fmt"

// Rewrite reads memory at a virtual address of a CPU and writes it back. What QEMU
// translated of it is translated anew.
func (c *Client) Rewrite(cpu int, address uint64, size int) error {
	if _, err := c.choose(cpu, "rip"); err != nil {
		return err
	}
	data, err := c.request(fmt.Sprintf("m%x,%x", address, size))
	if err != nil {
		return err
	}
	if len(data) != 2*size {
		return fmt.Errorf("memory at %#x is %q: %w", address, data, ErrProtocol)
	}
	answer, err := c.request(fmt.Sprintf("M%x,%x:%s", address, size, data))
	if err == nil && answer != "OK" {
		err = fmt.Errorf("write memory at %#x: answer %q: %w", address, answer, ErrRefused)
	}
	return err
}
