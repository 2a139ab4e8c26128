// Package bmc is a verifier's way to a machine's BMC: it fires scans over
// RMCP+ and asks how they went.
//
// The nonce of a scan travels on this path only. What the answer proves is that
// a BMC with the right password heard it; everything else is proven by the
// report that comes back over HTTPS with a quote over that nonce.
package bmc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/bougou/go-ipmi/pkg/client"
	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/plumbline-sec/plumbline/measure/oob/wire"
)

// Target is one BMC. Every call opens a session of its own: a go-ipmi client is
// not safe for concurrent use, and an idle session costs the BMC a slot.
type Target struct {
	Address  string // host or host:port; the port is 623 by default
	Username string
	Password string
	// Timeout bounds one call, session included; zero means 10 s.
	Timeout time.Duration
}

// Errors that callers tell apart.
var (
	// ErrAuthentication: the BMC refused the user name or the password.
	ErrAuthentication = errors.New("BMC refused user name or password")
	// ErrUnreachable: nothing answered in time. The machine is stale, not untrusted.
	ErrUnreachable = errors.New("BMC does not answer")
	// ErrPrivilege: the user may not start scans.
	ErrPrivilege = errors.New("BMC user lacks operator privilege")
	// ErrBusy: another scan of the machine is still running.
	ErrBusy = errors.New("a scan is already running")
	// ErrNoAgent: the BMC answers but knows no scan command.
	ErrNoAgent = errors.New("BMC has no measurement agent behind it")
)

// defaultPort is that of RMCP (IPMI v2.0 rev. 1.1, section 13.1.1).
const defaultPort = 623

// Trigger starts a scan with nonce. It returns when the BMC has taken it, not
// when the scan is done; repeating it with the same nonce starts nothing anew.
func Trigger(ctx context.Context, t Target, nonce [wire.NonceSize]byte) error {
	if _, err := t.command(ctx, wire.CmdStartScan, wire.StartScan(nonce)); err != nil {
		return fmt.Errorf("start scan through %s: %w", t.Address, err)
	}
	return nil
}

// State asks where the machine's latest scan stands.
func State(ctx context.Context, t Target) (wire.State, error) {
	data, err := t.command(ctx, wire.CmdScanState, wire.ScanState())
	if err != nil {
		return wire.State{}, fmt.Errorf("ask %s for its scan: %w", t.Address, err)
	}
	return wire.ParseState(data)
}

// LeaveRecord adds the SEL record that asks a bare-metal host's agent for a
// scan. Whether software on the host polls the log the BMC cannot tell.
func LeaveRecord(ctx context.Context, t Target, nonce [wire.NonceSize]byte) error {
	record := &types.SEL{
		RecordType:        types.SELRecordType(wire.SELRecordType),
		OEMNonTimestamped: &types.SELOEMNonTimestamped{OEM: wire.SELRecord(nonce)},
	}
	err := t.session(ctx, func(ctx context.Context, c *client.Client) error {
		_, err := c.AddSELEntry(ctx, record)
		return err
	})
	if err != nil {
		return fmt.Errorf("leave a record at %s: %w", t.Address, err)
	}
	return nil
}

func (t Target) command(ctx context.Context, command uint8, data []byte) (response []byte, err error) {
	err = t.session(ctx, func(ctx context.Context, c *client.Client) error {
		reply, err := c.RawCommand(ctx, types.NetFn(wire.NetFn), command, data, "scan")
		if err == nil {
			response = reply.Response
		}
		return err
	})
	return response, err
}

func (t Target) session(ctx context.Context, use func(context.Context, *client.Client) error) error {
	timeout := t.Timeout
	if timeout == 0 {
		timeout = 10 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	host, port, err := splitAddress(t.Address)
	if err != nil {
		return err
	}
	c, err := client.NewClient(host, port, t.Username, t.Password)
	if err != nil {
		return err
	}
	// Asking a BMC which suites it has stalls on old ones: offer the SHA-256
	// suite and the one that every BMC must have.
	c = c.WithCipherSuiteID(types.CipherSuiteID17, types.CipherSuiteID3).
		WithMaxPrivilegeLevel(types.PrivilegeLevelOperator).
		WithTimeout(timeout / 4)
	if err := c.Connect20(ctx); err != nil {
		return connectError(err)
	}
	defer func() {
		closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		c.Close(closing)
	}()
	return commandError(use(ctx, c))
}

func splitAddress(address string) (string, int, error) {
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return strings.Trim(address, "[]"), defaultPort, nil
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("BMC address %q: port is not a number", address)
	}
	return host, int(port), nil
}

// connectError names why no session came about. The library joins the failures
// of all suites into one text and drops their types, so the text must do.
func connectError(err error) error {
	text := err.Error()
	switch {
	case strings.Contains(text, client.ErrRAKPAuthentication.Error()):
		return ErrAuthentication
	case strings.Contains(text, "RMCP+ status"):
		return fmt.Errorf("%w:%s", ErrAuthentication, text[strings.LastIndex(text, ":"):][1:])
	}
	return fmt.Errorf("%w: %s", ErrUnreachable, text[strings.LastIndex(text, "\n")+1:])
}

// commandError gives the completion code of a command its name.
func commandError(err error) error {
	var code interface{ CompletionCode() types.CompletionCode }
	var timeout net.Error
	switch {
	case errors.As(err, &code):
		if named := byCode(code.CompletionCode()); named != nil {
			return named
		}
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout):
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return err
}

func byCode(code types.CompletionCode) error {
	switch code {
	case types.CodeNodeBusy:
		return ErrBusy
	case types.CodeInsufficientPrivilege:
		return ErrPrivilege
	case types.CodeInvalidCommand, types.CodeSubFnDisabled, types.CodeInvalidCommandForLUN:
		return ErrNoAgent
	}
	return nil
}
