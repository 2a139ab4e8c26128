// Package oob is the out-of-band side of a measured machine: its BMC, and the
// way from a trigger to a scan.
//
// For a VM the BMC is the agent's own. QEMU's ipmi-bmc-extern device shows it to
// the guest as /dev/ipmi0, RMCP+ shows it to the network, and the trigger that
// starts a scan is an OEM command on the network side only. The guest cannot
// see, delay or forge it: an OEM command from inside is refused.
//
// For a bare-metal host no standard BMC passes a message to its host without
// software on that host; see [SELPoll] for what is left and what it is worth.
//
// What the BMC proves: nothing by itself. It is a doorbell. Freshness comes from
// the nonce it carries and from the TPM quote over nonce and report. What an
// attacker with the LAN password can do: ring the bell, switch the machine off.
package oob

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/bougou/go-ipmi/pkg/bmc"
	"github.com/bougou/go-ipmi/pkg/handlers"
	"github.com/bougou/go-ipmi/pkg/server"
	"github.com/bougou/go-ipmi/pkg/transport/udp"
	"github.com/bougou/go-ipmi/pkg/types"
	"github.com/bougou/go-ipmi/pkg/vmproto"

	"github.com/plumbline-sec/plumbline/measure/oob/wire"
)

// User may log in over the LAN.
type User struct {
	Name     string // up to 16 bytes
	Password string // up to 20 bytes, the most RMCP+ knows
	// Privilege is the highest level the user may ask for; zero means
	// administrator. A verifier that only starts scans needs operator.
	Privilege bmc.PrivilegeLevel
}

// Options configure a BMC. Power may be nil where nothing can be switched.
type Options struct {
	Users []User
	Power Power
	// Link is the machine's side of the BMC; nil makes one. It is given where
	// Power needs it too.
	Link *VMLink
	// Scan measures the machine. It runs in a goroutine of the BMC, one at a
	// time; its error becomes the phase "failed". Nil: scans are refused.
	Scan func(ctx context.Context, nonce [wire.NonceSize]byte) error
	// MaxSessions bounds concurrent LAN sessions; zero means 16. The library's
	// own default of 4 is filled by a few impatient operators.
	MaxSessions int
	// Audit is told of each power action, scan request and refused privilege, of
	// the system interface's at most 60 a minute.
	Audit func(entry Audit)
}

// Audit is one thing that somebody asked of the BMC and that changes something.
type Audit struct {
	Time   time.Time
	User   string // empty for the system interface
	Action string
	Result string // IPMI completion code in words
}

// BMC is a baseboard management controller in software.
type BMC struct {
	opt      Options
	state    *bmc.BMC
	registry *handlers.Registry
	trigger  *trigger
	sel      *eventLog
	link     *VMLink
	scans    sync.WaitGroup
	inside   auditLimit
}

// errNoUsers keeps a BMC without any login from looking healthy.
var errNoUsers = errors.New("a BMC needs at least one user with a password")

// New makes a BMC. It opens nothing; see [BMC.ServeLAN] and [BMC.ServeVM].
func New(opt Options) (*BMC, error) {
	if opt.MaxSessions == 0 {
		opt.MaxSessions = 16
	}
	if opt.Link == nil {
		opt.Link = &VMLink{}
	}
	if opt.Audit == nil {
		opt.Audit = func(Audit) {}
	}
	var guid [16]byte
	if _, err := rand.Read(guid[:]); err != nil {
		return nil, fmt.Errorf("make BMC GUID: %w", err)
	}
	b := &BMC{opt: opt, sel: newEventLog(), link: opt.Link}
	b.trigger = &trigger{scan: opt.Scan, running: &b.scans}
	b.state = bmc.New(deviceInfo(), guid, &chassisHAL{power: opt.Power},
		bmc.WithV15Disabled(), // v1.5 authenticates with MD5 and encrypts nothing
		bmc.WithCipherSuites([]types.CipherSuiteID{types.CipherSuiteID17, types.CipherSuiteID3}))
	b.state.Sessions = bmc.NewSessionStoreWithOptions(b.state.Clock(), bmc.WithMaxSessions(opt.MaxSessions))
	if err := b.addUsers(opt.Users); err != nil {
		return nil, err
	}
	b.registry = b.newRegistry()
	return b, nil
}

// deviceInfo answers Get Device ID (IPMI v2.0 rev. 1.1, table 20-2).
func deviceInfo() bmc.DeviceInfo {
	return bmc.DeviceInfo{
		DeviceID:       0x20,
		DeviceRevision: 1,
		FirmwareMajor:  1,
		IPMIVersion:    0x02, // least significant digit first: 2.0
		ManufacturerID: wire.Enterprise,
		ProductID:      1,
		// Bit 2: SEL device; bit 7: chassis device.
		AdditionalDeviceSupport: 0x84,
	}
}

// lanChannel is the channel number that the library gives the LAN.
const lanChannel = 1

func (b *BMC) addUsers(users []User) error {
	if len(users) == 0 {
		return errNoUsers
	}
	for i, u := range users {
		if u.Name == "" || u.Password == "" {
			return errNoUsers
		}
		if len(u.Name) > bmc.MaxUserNameLen || len(u.Password) > bmc.MaxPasswordLen {
			return fmt.Errorf("BMC user %q: name over %d or password over %d bytes", u.Name, bmc.MaxUserNameLen, bmc.MaxPasswordLen)
		}
		if u.Privilege == 0 {
			u.Privilege = bmc.PrivilegeLevelAdministrator
		}
		// Slot 1 is the anonymous user and stays disabled.
		err := b.state.Users.Upsert(uint8(i+2), func(slot *bmc.User) error {
			slot.Name, slot.Enabled = u.Name, true
			slot.SetPassword([]byte(u.Password))
			slot.ChannelAccess[lanChannel] = bmc.UserChannelAccess{Enabled: true, MaxPrivilege: u.Privilege}
			return nil
		})
		if err != nil {
			return fmt.Errorf("add BMC user %q: %w", u.Name, err)
		}
	}
	return nil
}

func (b *BMC) newRegistry() *handlers.Registry {
	r := handlers.NewRegistry()
	r.Use(b.requirePrivilege)
	handlers.RegisterAllHandlers(r)
	registerChassis(r, b.opt.Power)
	registerMessaging(r)
	b.sel.register(r)
	b.trigger.register(r)
	return r
}

// ListenLAN binds the RMCP+ port; port 0 chooses a free one. The returned
// address is what clients use.
func (b *BMC) ListenLAN(address string) (*LAN, error) {
	conn, err := udp.Listen(address)
	if err != nil {
		return nil, fmt.Errorf("listen for RMCP+: %w", err)
	}
	return &LAN{
		conn: conn,
		server: server.NewServer(b.state, conn,
			server.WithHandlerRegistry(b.registry), server.WithV15Disabled()),
	}, nil
}

// LAN is the network side of a BMC.
type LAN struct {
	conn   *udp.Conn
	server *server.Server
}

// Address is the bound UDP address, host:port.
func (l *LAN) Address() string { return l.conn.LocalAddr().String() }

// Serve answers until ctx ends.
func (l *LAN) Serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { l.server.Close() })
	defer stop()
	err := l.server.Serve(ctx)
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// ServeVM speaks the protocol of QEMU's ipmi-bmc-extern on ln until ctx ends. The
// protocol has no authentication: ln must be a unix socket that only QEMU and
// the agent can reach.
func (b *BMC) ServeVM(ctx context.Context, ln net.Listener) error {
	vm := vmproto.NewVMServer(b.state, vmproto.WithVMHandlerRegistry(b.registry))
	return vm.Serve(ctx, b.link.listener(ln))
}

// AddEvent appends a record to the SEL as the BMC itself.
func (b *BMC) AddEvent(record [16]byte) { b.sel.add(record) }

// State is where the latest scan stands.
func (b *BMC) State() wire.State { return b.trigger.state() }

// Wait returns when no scan is running any more.
func (b *BMC) Wait() { b.scans.Wait() }
