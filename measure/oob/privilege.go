package oob

import (
	"context"
	"sync"
	"time"

	"github.com/bougou/go-ipmi/pkg/bmc"
	"github.com/bougou/go-ipmi/pkg/handlers"
	"github.com/bougou/go-ipmi/pkg/types"
)

// needs lists commands that change something and that the library lets every
// user run. Levels are those of IPMI v2.0 rev. 1.1, appendix G.
var needs = map[types.CommandKey]bmc.PrivilegeLevel{
	types.CommandChassisControl.Key():       bmc.PrivilegeLevelOperator,
	types.CommandSetSystemBootOptions.Key(): bmc.PrivilegeLevelOperator,
	types.CommandColdReset.Key():            bmc.PrivilegeLevelAdministrator,
	types.CommandWarmReset.Key():            bmc.PrivilegeLevelAdministrator,
	types.CommandAddSELEntry.Key():          bmc.PrivilegeLevelOperator,
	types.CommandDeleteSELEntry.Key():       bmc.PrivilegeLevelOperator,
	types.CommandClearSEL.Key():             bmc.PrivilegeLevelOperator,
	types.CommandSetSELTime.Key():           bmc.PrivilegeLevelOperator,
	types.CommandSetBMCGlobalEnables.Key():  bmc.PrivilegeLevelAdministrator,
	types.CommandClearMessageFlags.Key():    bmc.PrivilegeLevelOperator,
	types.CommandSetWatchdogTimer.Key():     bmc.PrivilegeLevelOperator,
	types.CommandResetWatchdogTimer.Key():   bmc.PrivilegeLevelOperator,
	types.CommandChassisIdentify.Key():      bmc.PrivilegeLevelOperator,
	types.CommandSetSELTimeUTCOffset.Key():  bmc.PrivilegeLevelOperator,
	{NetFn: types.NetFn(0x2E), ID: 0x01}:    bmc.PrivilegeLevelOperator,
}

// lanOnly lists commands that would let a guest decide who may reach its BMC
// over the LAN: with a verifier's password changed, its user switched off or its
// session closed, no trigger arrives any more.
var lanOnly = map[types.CommandKey]bool{
	types.CommandSetUserAccess.Key():        true,
	types.CommandSetUsername.Key():          true,
	types.CommandSetUserPassword.Key():      true, // also tells whether a password is right
	types.CommandSetUserPayloadAccess.Key(): true,
	types.CommandSetSOLConfigParam.Key():    true,
	types.CommandCloseSession.Key():         true,
}

// requirePrivilege holds LAN sessions to needs and writes the audit trail. The
// system interface has no session and, as on real hardware, every right but
// those to the OEM commands and to lanOnly: on real hardware who owns the host
// owns its BMC, here the guest is what the BMC watches.
func (b *BMC) requirePrivilege(next handlers.Handler) handlers.Handler {
	return handlers.HandlerFunc(func(ctx context.Context, h *handlers.HandlerContext, data []byte) ([]byte, types.CompletionCode, error) {
		least, audited := needs[h.Command.Key()]
		if h.Session == nil && h.Channel != nil && h.Channel.Medium == bmc.ChannelMediumSystemIF && lanOnly[h.Command.Key()] {
			b.audit(h, types.CodeInsufficientPrivilege)
			return nil, types.CodeInsufficientPrivilege, nil
		}
		if h.Session != nil && h.Session.PrivilegeLevel < least {
			b.audit(h, types.CodeInsufficientPrivilege)
			return nil, types.CodeInsufficientPrivilege, nil
		}
		response, code, err := next.Handle(ctx, h, data)
		if audited {
			b.audit(h, code)
		}
		return response, code, err
	})
}

// maxInsideAudits is how many entries a minute the system interface may cause: a
// guest must not be able to fill its host's log.
const maxInsideAudits = 60

func (b *BMC) audit(h *handlers.HandlerContext, code types.CompletionCode) {
	if h.Session == nil && !b.inside.allow(time.Now()) {
		return
	}
	entry := Audit{Time: time.Now(), Action: h.Command.Name, Result: code.String()}
	if h.User != nil {
		entry.User = h.User.Name
	}
	b.opt.Audit(entry)
}

// auditLimit counts the audit entries of the minute that runs.
type auditLimit struct {
	mu    sync.Mutex
	since time.Time
	count int
}

func (l *auditLimit) allow(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.since) >= time.Minute {
		l.since, l.count = now, 0
	}
	l.count++
	return l.count <= maxInsideAudits
}
