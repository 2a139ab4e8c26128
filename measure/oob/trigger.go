package oob

import (
	"context"
	"sync"
	"time"

	"github.com/bougou/go-ipmi/pkg/bmc"
	"github.com/bougou/go-ipmi/pkg/handlers"
	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/plumbline-sec/plumbline/measure/oob/wire"
)

// trigger turns an OEM command into a scan. LAN clients retry and the server
// does not deduplicate, so a command must answer at once and a repeated nonce
// must not measure twice.
type trigger struct {
	scan    func(context.Context, [wire.NonceSize]byte) error
	running *sync.WaitGroup

	mu      sync.Mutex
	nonce   [wire.NonceSize]byte
	phase   wire.Phase
	started time.Time
	elapsed time.Duration
}

func (t *trigger) register(r *handlers.Registry) {
	r.RegisterFunc(types.Command{NetFn: wire.NetFn, ID: wire.CmdStartScan, Name: "Plumbline Start Scan"}, t.handleStart)
	r.RegisterFunc(types.Command{NetFn: wire.NetFn, ID: wire.CmdScanState, Name: "Plumbline Get Scan State"}, t.handleState)
}

func (t *trigger) handleStart(_ context.Context, h *handlers.HandlerContext, data []byte) ([]byte, types.CompletionCode, error) {
	if h.Session == nil || h.Session.PrivilegeLevel < bmc.PrivilegeLevelOperator {
		// From the system interface it would be the target asking for its own
		// measurement: it could learn when it is not being looked at.
		return nil, types.CodeInsufficientPrivilege, nil
	}
	nonce, err := wire.ParseStartScan(data)
	if err != nil {
		return nil, types.CodeRequestDataFieldInvalid, nil
	}
	if t.scan == nil {
		return nil, types.CodeSubFnDisabled, nil
	}
	if !t.start(nonce) {
		return nil, types.CodeNodeBusy, nil
	}
	return t.state().Encode(), types.CodeOK, nil
}

func (t *trigger) handleState(_ context.Context, h *handlers.HandlerContext, data []byte) ([]byte, types.CompletionCode, error) {
	if h.Session == nil {
		return nil, types.CodeInsufficientPrivilege, nil
	}
	if wire.ParseScanState(data) != nil {
		return nil, types.CodeRequestDataFieldInvalid, nil
	}
	return t.state().Encode(), types.CodeOK, nil
}

// start begins a scan for nonce. It reports false when another scan runs; a
// nonce that was already taken is answered without a second scan.
func (t *trigger) start(nonce [wire.NonceSize]byte) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.phase != wire.Idle && nonce == t.nonce {
		return true
	}
	if t.phase == wire.Running {
		return false
	}
	t.nonce, t.phase, t.started = nonce, wire.Running, time.Now()
	t.running.Go(func() {
		// The scan outlives the command that asked for it: not the command's context.
		err := t.scan(context.Background(), nonce)
		t.finish(err)
	})
	return true
}

func (t *trigger) finish(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.phase, t.elapsed = wire.Done, time.Since(t.started)
	if err != nil {
		t.phase = wire.Failed
	}
}

func (t *trigger) state() wire.State {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := wire.State{Phase: t.phase, ElapsedMS: uint32(t.elapsed.Milliseconds())}
	if t.phase == wire.Running {
		s.ElapsedMS = uint32(time.Since(t.started).Milliseconds())
	}
	copy(s.Nonce[:], t.nonce[:])
	return s
}
