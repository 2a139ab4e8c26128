package gdbstub

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/xml"
	"fmt"
	"path"
	"strings"
)

// register is one entry of the target description.
type register struct {
	number int
	bytes  int
}

// feature is a document of the target description (GDB manual, appendix G):
// registers in order, numbered on from the last unless it says otherwise, and
// other documents by inclusion.
type feature struct {
	Registers []struct {
		Name   string `xml:"name,attr"`
		Bits   int    `xml:"bitsize,attr"`
		Number *int   `xml:"regnum,attr"`
	} `xml:"reg"`
	Includes []struct {
		File string `xml:"href,attr"`
	} `xml:"include"`
	Features []feature `xml:"feature"`
}

// limits on a description that does not end.
const (
	maxDocuments = 64
	maxRegisters = 4096
)

func (c *Client) readDescription() error {
	c.registers = make(map[string]register)
	pending := []string{"target.xml"}
	next := 0
	for documents := 0; len(pending) > 0; documents++ {
		if documents == maxDocuments {
			return fmt.Errorf("target description without end: %w", ErrProtocol)
		}
		text, err := c.readDocument(pending[0])
		if err != nil {
			return err
		}
		pending = pending[1:]
		var doc feature
		if err := xml.Unmarshal([]byte(text), &doc); err != nil {
			return fmt.Errorf("target description: %w", err)
		}
		for _, f := range append([]feature{doc}, doc.Features...) {
			for _, include := range f.Includes {
				pending = append(pending, path.Base(include.File))
			}
			next = c.addRegisters(f, next)
		}
	}
	if len(c.registers) == 0 || next > maxRegisters {
		return fmt.Errorf("target description with %d registers: %w", next, ErrProtocol)
	}
	return nil
}

func (c *Client) addRegisters(f feature, next int) int {
	for _, r := range f.Registers {
		if r.Number != nil {
			next = *r.Number
		}
		c.registers[r.Name] = register{number: next, bytes: r.Bits / 8}
		next++
	}
	return next
}

// readDocument fetches one document in parts.
func (c *Client) readDocument(name string) (string, error) {
	var text strings.Builder
	for {
		part, err := c.request(fmt.Sprintf("qXfer:features:read:%s:%x,ffb", name, text.Len()))
		if err != nil {
			return "", err
		}
		if part == "" || text.Len() > maxPacket {
			return "", fmt.Errorf("description %s: %w", name, ErrProtocol)
		}
		text.WriteString(part[1:])
		switch part[0] {
		case 'l':
			return text.String(), nil
		case 'm':
		default:
			return "", fmt.Errorf("description %s: %w", name, ErrProtocol)
		}
	}
}

// ReadRegister reads a register of up to 64 bits of a CPU, counted from 0.
func (c *Client) ReadRegister(cpu int, name string) (uint64, error) {
	r, err := c.choose(cpu, name)
	if err != nil {
		return 0, err
	}
	answer, err := c.request(fmt.Sprintf("p%x", r.number))
	if err != nil {
		return 0, err
	}
	data, err := hex.DecodeString(answer)
	if err != nil || len(data) == 0 || len(data) > 8 {
		return 0, fmt.Errorf("register %s is %q: %w", name, answer, ErrProtocol)
	}
	var value [8]byte
	copy(value[:], data) // in the target's byte order: little-endian
	return binary.LittleEndian.Uint64(value[:]), nil
}

// WriteRegister writes a register of up to 64 bits of a CPU.
func (c *Client) WriteRegister(cpu int, name string, value uint64) error {
	r, err := c.choose(cpu, name)
	if err != nil {
		return err
	}
	if r.bytes < 1 || r.bytes > 8 {
		return fmt.Errorf("register %s has %d bytes: %w", name, r.bytes, ErrNoRegister)
	}
	data := binary.LittleEndian.AppendUint64(nil, value)[:r.bytes]
	answer, err := c.request(fmt.Sprintf("P%x=%x", r.number, data))
	if err != nil {
		return err
	}
	if answer != "OK" {
		return fmt.Errorf("write register %s: answer %q: %w", name, answer, ErrRefused)
	}
	return nil
}

// choose makes a CPU the one that the next register request is about.
func (c *Client) choose(cpu int, name string) (register, error) {
	r, ok := c.registers[name]
	if !ok {
		return register{}, fmt.Errorf("%s: %w", name, ErrNoRegister)
	}
	if cpu < 0 || cpu >= len(c.threads) {
		return register{}, fmt.Errorf("no CPU %d among %d: %w", cpu, len(c.threads), ErrNoRegister)
	}
	_, err := c.request("Hg" + c.threads[cpu])
	return r, err
}
