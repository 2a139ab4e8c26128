package oob

import (
	"context"

	"github.com/bougou/go-ipmi/pkg/command/chassis"
	"github.com/bougou/go-ipmi/pkg/hal"
	"github.com/bougou/go-ipmi/pkg/handlers"
	"github.com/bougou/go-ipmi/pkg/types"
)

// Power switches the machine behind a BMC.
type Power interface {
	// On reports whether the machine has power.
	On(ctx context.Context) (bool, error)
	// Do performs one action.
	Do(ctx context.Context, action Action) error
}

// Action is a chassis control action (IPMI v2.0 rev. 1.1, table 28-4).
type Action uint8

// Chassis control actions, with the standard's numbers.
const (
	PowerDown     Action = 0
	PowerUp       Action = 1
	PowerCycle    Action = 2
	HardReset     Action = 3
	DiagnosticNMI Action = 4
	SoftShutdown  Action = 5
)

// chassisHAL gives the library's handlers their machine. Everything that the
// machine does not have is nil, which the library answers as not supported.
type chassisHAL struct{ power Power }

func (h *chassisHAL) Chassis() hal.ChassisHAL {
	if h.power == nil {
		return nil
	}
	return chassisPower{h.power}
}
func (h *chassisHAL) Sensors() hal.SensorHAL  { return nil }
func (h *chassisHAL) Storage() hal.StorageHAL { return nil }
func (h *chassisHAL) Network() hal.NetworkHAL { return nil }
func (h *chassisHAL) GPIO() hal.GPIOHAL       { return nil }
func (h *chassisHAL) I2C() hal.I2CHAL         { return nil }
func (h *chassisHAL) Console() hal.ConsoleHAL { return nil }
func (h *chassisHAL) Close() error            { return nil }

type chassisPower struct{ power Power }

func (c chassisPower) PowerState(ctx context.Context) (bool, error) { return c.power.On(ctx) }

func (c chassisPower) SetPower(ctx context.Context, on bool) error {
	if on {
		return c.power.Do(ctx, PowerUp)
	}
	return c.power.Do(ctx, PowerDown)
}

func (c chassisPower) PowerCycle(ctx context.Context) error { return c.power.Do(ctx, PowerCycle) }
func (c chassisPower) ColdReset(ctx context.Context) error  { return c.power.Do(ctx, HardReset) }

// WarmReset is what the library calls for the action "soft shutdown".
func (c chassisPower) WarmReset(ctx context.Context) error { return c.power.Do(ctx, SoftShutdown) }

func (c chassisPower) Identify(context.Context, uint8) error { return nil }

func (c chassisPower) IntrusionState(context.Context) (bool, error) {
	return false, hal.ErrNotSupported
}

func (c chassisPower) SetBootFlags(context.Context, *types.BootOptionParam_BootFlags) error {
	return hal.ErrNotSupported
}

func (c chassisPower) GetBootFlags(context.Context) (*types.BootOptionParam_BootFlags, error) {
	return nil, hal.ErrNotSupported
}

func (c chassisPower) SetBootInfoAcknowledge(context.Context, *types.BootOptionParam_BootInfoAcknowledge) error {
	return nil
}

func (c chassisPower) GetBootInfoAcknowledge(context.Context) (*types.BootOptionParam_BootInfoAcknowledge, error) {
	return nil, hal.ErrNotSupported
}

// registerChassis replaces what the library answers for its reference hardware:
// it refuses the diagnostic interrupt, and its App resets, which mean the BMC,
// reset the machine.
func registerChassis(r *handlers.Registry, power Power) {
	standard := handlers.NewRegistry()
	handlers.RegisterChassisHandlers(standard)
	r.RegisterFunc(types.CommandChassisControl, func(ctx context.Context, h *handlers.HandlerContext, data []byte) ([]byte, types.CompletionCode, error) {
		if power != nil && len(data) > 0 && data[0]&0x0f == byte(chassis.ChassisControlDiagnosticInterrupt) {
			if err := power.Do(ctx, DiagnosticNMI); err != nil {
				return nil, types.CodeUnspecifiedError, err
			}
			return nil, types.CodeOK, nil
		}
		control := types.CommandChassisControl
		return standard.Dispatch(ctx, h, uint8(control.NetFn), control.ID, data)
	})
	accepted := func(context.Context, *handlers.HandlerContext, []byte) ([]byte, types.CompletionCode, error) {
		return nil, types.CodeOK, nil
	}
	r.RegisterFunc(types.CommandColdReset, accepted)
	r.RegisterFunc(types.CommandWarmReset, accepted)
	r.RegisterFunc(types.CommandGetSystemRestartCause, func(context.Context, *handlers.HandlerContext, []byte) ([]byte, types.CompletionCode, error) {
		// Table 28-11: 0 is "unknown": QEMU gives the same reason whoever reset
		// the machine. The second byte is the channel, not recorded either.
		return []byte{0, 0}, types.CodeOK, nil
	})
}
