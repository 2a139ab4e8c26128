package oob

import (
	"context"
	"encoding/binary"
	"sync"
	"time"

	"github.com/bougou/go-ipmi/pkg/handlers"
	"github.com/bougou/go-ipmi/pkg/types"
)

// messaging answers the commands with which a system's own driver sets up its
// side of the system interface, and the watchdog. Without them Linux' ipmi_si
// polls instead of using interrupts and a command takes 11 ms instead of one.
type messaging struct {
	mu       sync.Mutex
	enables  byte // section 22.1
	watchdog watchdog
}

func registerMessaging(r *handlers.Registry) {
	m := &messaging{}
	for command, handle := range map[types.Command]func([]byte) ([]byte, types.CompletionCode){
		types.CommandSetBMCGlobalEnables: m.setEnables,
		types.CommandGetBMCGlobalEnables: m.getEnables,
		types.CommandClearMessageFlags:   nothing,
		types.CommandGetMessageFlags:     noFlags,
		types.CommandGetChannelAccess:    channelAccess,
		types.CommandSetWatchdogTimer:    m.setWatchdog,
		types.CommandResetWatchdogTimer:  m.resetWatchdog,
		types.CommandGetWatchdogTimer:    m.getWatchdog,
	} {
		r.RegisterFunc(command, func(_ context.Context, _ *handlers.HandlerContext, data []byte) ([]byte, types.CompletionCode, error) {
			m.mu.Lock()
			defer m.mu.Unlock()
			response, code := handle(data)
			return response, code, nil
		})
	}
}

func nothing([]byte) ([]byte, types.CompletionCode) { return nil, types.CodeOK }
func noFlags([]byte) ([]byte, types.CompletionCode) { return []byte{0}, types.CodeOK }

func (m *messaging) setEnables(data []byte) ([]byte, types.CompletionCode) {
	if len(data) != 1 {
		return nil, types.CodeRequestDataLengthInvalid
	}
	m.enables = data[0]
	return nil, types.CodeOK
}

func (m *messaging) getEnables([]byte) ([]byte, types.CompletionCode) {
	return []byte{m.enables}, types.CodeOK
}

// channelAccess answers Get Channel Access (table 22-29): always available, at
// most administrator, for the LAN channel.
func channelAccess(data []byte) ([]byte, types.CompletionCode) {
	if len(data) != 2 {
		return nil, types.CodeRequestDataLengthInvalid
	}
	if n := data[0] & 0x0f; n != lanChannel && n != types.ChannelNumberSelf {
		return nil, types.CodeRequestDataFieldInvalid
	}
	return []byte{0x02, 0x04}, types.CodeOK
}

// watchdog keeps the guest's watchdog settings (section 27). It counts and
// reports but takes no action: a guest must not be able to reset its own
// measurement away through a timer nobody sees.
type watchdog struct {
	settings [6]byte
	started  time.Time
}

func (m *messaging) setWatchdog(data []byte) ([]byte, types.CompletionCode) {
	if len(data) != 6 {
		return nil, types.CodeRequestDataLengthInvalid
	}
	m.watchdog = watchdog{settings: [6]byte(data)}
	return nil, types.CodeOK
}

func (m *messaging) resetWatchdog([]byte) ([]byte, types.CompletionCode) {
	if m.watchdog.settings == [6]byte{} {
		return nil, types.CompletionCode(0x80) // table 27-2: never initialized
	}
	m.watchdog.started = time.Now()
	return nil, types.CodeOK
}

func (m *messaging) getWatchdog([]byte) ([]byte, types.CompletionCode) {
	left := binary.LittleEndian.Uint16(m.watchdog.settings[4:])
	if !m.watchdog.started.IsZero() {
		spent := time.Since(m.watchdog.started) / (100 * time.Millisecond)
		left -= uint16(min(int64(spent), int64(left)))
	}
	return binary.LittleEndian.AppendUint16(append([]byte(nil), m.watchdog.settings[:]...), left), types.CodeOK
}
