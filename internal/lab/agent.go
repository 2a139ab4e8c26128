package lab

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// guestAgent is the guest's QEMU guest agent: the lab's way to run commands
// inside. Every request takes its own connection, under a lock that other
// processes respect, because the socket serves one client at a time.
//
// Source: QEMU, docs/interop/qemu-ga-ref.
type guestAgent struct {
	socket string
	lock   string
	stale  func(context.Context) error // called as long as a request has no answer; may be nil
}

// requestTimeout bounds one request. A guest under TCG on a busy machine has
// been seen to take seconds, and an answer may bring megabytes of output.
const requestTimeout = 5 * time.Minute

// call sends one request and decodes its answer.
func (g guestAgent) call(ctx context.Context, command string, arguments, result any) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	unlock, err := lockFile(ctx, g.lock)
	if err != nil {
		return err
	}
	defer unlock()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", g.socket)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	defer g.watch(ctx)()
	r := bufio.NewReader(conn)
	if err := synchronize(conn, r); err != nil {
		return fmt.Errorf("guest agent: %w", err)
	}
	request, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
	}{command, arguments})
	if err != nil {
		return err
	}
	if _, err := conn.Write(append(request, '\n')); err != nil {
		return fmt.Errorf("guest agent: %w", err)
	}
	line, err := r.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("guest agent: %s: %w", command, err)
	}
	var answer struct {
		Return json.RawMessage
		Error  *struct{ Class, Desc string }
	}
	if err := json.Unmarshal(line, &answer); err != nil {
		return fmt.Errorf("guest agent: %s: %w", command, err)
	}
	if answer.Error != nil {
		return fmt.Errorf("guest agent: %s: %s", command, answer.Error.Desc)
	}
	if result == nil {
		return nil
	}
	return json.Unmarshal(answer.Return, result)
}

// watch calls stale now and then until the request is over.
func (g guestAgent) watch(ctx context.Context) (over func()) {
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		for g.stale != nil {
			select {
			case <-ctx.Done():
				return
			case <-time.After(staleAfter):
				g.stale(ctx) // what it cannot do now it may next time
			}
		}
	})
	return func() { cancel(); watching.Wait() }
}

// synchronize discards what an earlier, interrupted request may have left: the
// agent's parser is reset by 0xFF and its answer comes behind another 0xFF
// (guest-sync-delimited).
func synchronize(conn net.Conn, r *bufio.Reader) error {
	id := time.Now().UnixNano() & 0x7fffffff
	if _, err := fmt.Fprintf(conn, "\xff{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":%d}}\n", id); err != nil {
		return err
	}
	for {
		if _, err := r.ReadBytes(0xff); err != nil {
			return err
		}
		line, err := r.ReadBytes('\n')
		if err != nil {
			return err
		}
		var answer struct{ Return int64 }
		if json.Unmarshal(bytes.TrimSpace(line), &answer) == nil && answer.Return == id {
			return nil
		}
	}
}

// Result is how a command in the guest ended.
type Result struct {
	ExitCode int
	Signal   int // 0 unless a signal ended the command
	Stdout   []byte
	Stderr   []byte
}

// errExecStatus wraps the failure of a command that ran.
var errExecStatus = errors.New("command failed in the guest")

// exec runs argv in the guest as root and waits for it.
func (g guestAgent) exec(ctx context.Context, argv []string, stdin []byte) (*Result, error) {
	if len(argv) == 0 {
		return nil, errors.New("no command")
	}
	arguments := map[string]any{
		"path": argv[0], "arg": argv[1:], "capture-output": true,
		"env": []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8"},
	}
	if len(stdin) > 0 {
		arguments["input-data"] = stdin // marshals as base64, as the agent wants it
	}
	var started struct{ PID int }
	if err := g.call(ctx, "guest-exec", arguments, &started); err != nil {
		return nil, err
	}
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: %w", argv[0], ctx.Err())
		case <-time.After(pause):
		}
		var status struct {
			Exited   bool
			ExitCode int    `json:"exitcode"`
			Signal   int    `json:"signal"`
			Out      []byte `json:"out-data"`
			Err      []byte `json:"err-data"`
		}
		if err := g.call(ctx, "guest-exec-status", map[string]int{"pid": started.PID}, &status); err != nil {
			return nil, err
		}
		if status.Exited {
			return &Result{ExitCode: status.ExitCode, Signal: status.Signal, Stdout: status.Out, Stderr: status.Err}, nil
		}
	}
}
