package nbd

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/bits"
	"slices"
	"strings"
)

// Magic numbers and codes of the protocol.
const (
	initMagic     = 0x4e42444d41474943 // "NBDMAGIC"
	optionMagic   = 0x49484156454f5054 // "IHAVEOPT"
	replyMagic    = 0x0003e889045565a9
	requestMagic  = 0x25609513
	simpleMagic   = 0x67446698
	chunkMagic    = 0x668e33ef
	fixedNewstyle = 1 << 0
	noZeroes      = 1 << 1

	optGo              = 7
	optStructuredReply = 8
	optSetMetaContext  = 10

	repAck         = 1
	repInfo        = 3
	repMetaContext = 4
	repError       = 1 << 31

	infoExport    = 0
	infoBlockSize = 3

	cmdRead        = 0
	cmdDisc        = 2
	cmdBlockStatus = 7
)

// Bounds on what a server may send while negotiating.
const (
	maxOptionReply = 64 << 10
	maxReplies     = 1024
)

// negotiate ends with the connection in transmission mode.
func (c *Client) negotiate(export string, contexts, more []string) error {
	var hello [18]byte
	if _, err := io.ReadFull(c.conn, hello[:]); err != nil {
		return fmt.Errorf("read greeting: %w", err)
	}
	if binary.BigEndian.Uint64(hello[:]) != initMagic || binary.BigEndian.Uint64(hello[8:]) != optionMagic {
		return fmt.Errorf("greeting: %w", ErrProtocol)
	}
	flags := binary.BigEndian.Uint16(hello[16:]) & (fixedNewstyle | noZeroes)
	if flags&fixedNewstyle == 0 {
		return fmt.Errorf("server has no fixed newstyle negotiation: %w", ErrProtocol)
	}
	if _, err := c.conn.Write(binary.BigEndian.AppendUint32(nil, uint32(flags))); err != nil {
		return err
	}
	structured, err := c.option(optStructuredReply, nil, nil)
	if err != nil {
		return err
	}
	if structured {
		if err := c.metaContexts(export, slices.Concat(more, contexts)); err != nil {
			return err
		}
	}
	for _, want := range contexts {
		if _, ok := c.contexts[want]; !ok {
			return fmt.Errorf("%w: %s", ErrNoContext, want)
		}
	}
	return c.goTransmit(export)
}

func (c *Client) metaContexts(export string, want []string) error {
	data := appendString(nil, export)
	data = binary.BigEndian.AppendUint32(data, uint32(len(want)))
	for _, name := range want {
		data = appendString(data, name)
	}
	_, err := c.option(optSetMetaContext, data, func(kind uint32, reply []byte) error {
		if kind == repMetaContext && len(reply) >= 4 {
			c.contexts[string(reply[4:])] = binary.BigEndian.Uint32(reply)
		}
		return nil
	})
	return err
}

func (c *Client) goTransmit(export string) error {
	data := appendString(nil, export)
	data = binary.BigEndian.AppendUint16(data, 1)
	data = binary.BigEndian.AppendUint16(data, infoBlockSize)
	sized := false
	ok, err := c.option(optGo, data, func(kind uint32, reply []byte) error {
		if kind != repInfo || len(reply) < 2 {
			return nil
		}
		switch info := binary.BigEndian.Uint16(reply); {
		case info == infoExport && len(reply) >= 12:
			size := binary.BigEndian.Uint64(reply[2:])
			if size > math.MaxInt64 {
				return fmt.Errorf("export of %d bytes: %w", size, ErrProtocol)
			}
			c.Size, sized = int64(size), true
		case info == infoBlockSize && len(reply) >= 14:
			least := binary.BigEndian.Uint32(reply[2:])
			if bits.OnesCount32(least) != 1 || least > 64<<10 {
				return fmt.Errorf("block size %d: %w", least, ErrProtocol)
			}
			c.least = int64(least)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if !ok || !sized {
		return fmt.Errorf("server has no such export: %w", ErrProtocol)
	}
	return nil
}

func appendString(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint32(b, uint32(len(s))), s...)
}

// option sends an option and gives each reply to visit until the last. It is
// false when the server does not do it.
func (c *Client) option(option uint32, data []byte, visit func(kind uint32, reply []byte) error) (bool, error) {
	b := binary.BigEndian.AppendUint64(nil, optionMagic)
	b = binary.BigEndian.AppendUint32(b, option)
	b = binary.BigEndian.AppendUint32(b, uint32(len(data)))
	if _, err := c.conn.Write(append(b, data...)); err != nil {
		return false, err
	}
	for range maxReplies {
		kind, reply, err := c.optionReply(option)
		if err != nil {
			return false, err
		}
		switch {
		case kind == repAck:
			return true, nil
		case kind&repError != 0:
			if option == optGo {
				return false, fmt.Errorf("server refuses it (%#x): %s", kind, strings.ToValidUTF8(string(reply), "?"))
			}
			return false, nil
		case visit != nil:
			if err := visit(kind, reply); err != nil {
				return false, err
			}
		}
	}
	return false, fmt.Errorf("option %d is answered without end: %w", option, ErrProtocol)
}

func (c *Client) optionReply(option uint32) (kind uint32, reply []byte, err error) {
	var head [20]byte
	if _, err := io.ReadFull(c.conn, head[:]); err != nil {
		return 0, nil, fmt.Errorf("read option reply: %w", err)
	}
	size := binary.BigEndian.Uint32(head[16:])
	if binary.BigEndian.Uint64(head[:]) != replyMagic || binary.BigEndian.Uint32(head[8:]) != option || size > maxOptionReply {
		return 0, nil, fmt.Errorf("option reply: %w", ErrProtocol)
	}
	reply = make([]byte, size)
	if _, err := io.ReadFull(c.conn, reply); err != nil {
		return 0, nil, fmt.Errorf("read option reply: %w", err)
	}
	return binary.BigEndian.Uint32(head[12:]), reply, nil
}
