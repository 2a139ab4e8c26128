package qmp

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// Execute runs one command. Arguments is marshalled to the command's arguments
// object (nil for none), result receives the "return" value (nil to drop it).
// A refusal by QEMU is an [*Error]. A cancelled context abandons the answer,
// not the command: QEMU may still carry it out.
func (c *Client) Execute(ctx context.Context, command string, arguments, result any) error {
	return c.execute(ctx, command, arguments, result, nil)
}

// ExecuteWithFile is Execute that passes the descriptor of file along, as
// "getfd", "add-fd" and "add_client" take it. File stays open and the caller's.
func (c *Client) ExecuteWithFile(ctx context.Context, command string, arguments, result any, file *os.File) error {
	rights, err := rightsOf(file)
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	return c.execute(ctx, command, arguments, result, rights)
}

// HMP runs one line of the human monitor and returns what it prints. The human
// monitor has no errors: a complaint is in the text.
func (c *Client) HMP(ctx context.Context, line string) (string, error) {
	var text string
	args := map[string]string{"command-line": line}
	if err := c.Execute(ctx, "human-monitor-command", args, &text); err != nil {
		return "", err
	}
	return strings.ReplaceAll(text, "\r\n", "\n"), nil
}

// Pending is a command that was sent and whose answer nobody waits for yet.
type Pending struct {
	client  *Client
	command string
	id      uint64
	answer  chan message
	err     error // it was not sent
}

// Begin sends one command as [Client.Execute] does and does not wait for its
// answer. QEMU carries out what one caller begins in that order (qmp-spec.rst,
// "Commands Responses", without out-of-band execution), so that a command may build
// on those before it.
func (c *Client) Begin(command string, arguments any) *Pending {
	return c.begin(command, arguments, nil)
}

func (c *Client) execute(ctx context.Context, command string, arguments, result any, rights []byte) error {
	return c.begin(command, arguments, rights).Wait(ctx, result)
}

func (c *Client) begin(command string, arguments any, rights []byte) *Pending {
	p := &Pending{client: c, command: command}
	if p.id, p.answer, p.err = c.expect(); p.err != nil {
		return p
	}
	request, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        uint64 `json:"id"`
	}{command, arguments, p.id})
	if err != nil {
		err = fmt.Errorf("encode arguments: %w", err)
	} else {
		err = c.send(append(request, '\n'), rights)
	}
	if err != nil {
		c.forget(p.id)
		p.err = err
	}
	return p
}

// Wait waits for the answer, as [Client.Execute] does.
func (p *Pending) Wait(ctx context.Context, result any) error {
	if p.err != nil {
		return fmt.Errorf("%s: %w", p.command, p.err)
	}
	defer p.client.forget(p.id)
	select {
	case m := <-p.answer:
		return m.decode(p.command, result)
	case <-p.client.done:
		select { // the answer may have come just before the end, as that of "quit" does
		case m := <-p.answer:
			return m.decode(p.command, result)
		default:
		}
		return fmt.Errorf("%s: %w", p.command, p.client.ended())
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", p.command, ctx.Err())
	}
}

// expect allots an id and the channel its answer will come by.
func (c *Client) expect() (uint64, chan message, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, nil, c.err
	}
	c.nextID++
	answer := make(chan message, 1)
	c.pending[c.nextID] = answer
	return c.nextID, answer, nil
}

func (c *Client) forget(id uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.pending, id)
}

func (c *Client) ended() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *Client) send(request, rights []byte) error {
	c.write.Lock()
	defer c.write.Unlock()
	n := 0
	if rights != nil {
		var err error
		if n, _, err = c.conn.WriteMsgUnix(request, rights, nil); err != nil {
			return err
		}
	}
	_, err := c.conn.Write(request[n:])
	return err
}

func (m *message) decode(command string, result any) error {
	if m.Error != nil {
		m.Error.Command = command
		return m.Error
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(m.Return, result); err != nil {
		return fmt.Errorf("%s: decode answer: %w", command, err)
	}
	return nil
}
