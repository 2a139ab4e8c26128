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

func (c *Client) execute(ctx context.Context, command string, arguments, result any, rights []byte) error {
	id, answer, err := c.expect()
	if err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	defer c.forget(id)
	request, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        uint64 `json:"id"`
	}{command, arguments, id})
	if err != nil {
		return fmt.Errorf("%s: encode arguments: %w", command, err)
	}
	if err := c.send(append(request, '\n'), rights); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	select {
	case m := <-answer:
		return m.decode(command, result)
	case <-c.done:
		select { // the answer may have come just before the end, as that of "quit" does
		case m := <-answer:
			return m.decode(command, result)
		default:
		}
		return fmt.Errorf("%s: %w", command, c.ended())
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", command, ctx.Err())
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
