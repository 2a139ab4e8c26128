package oob

import (
	"context"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bougou/go-ipmi/pkg/bmc"
	"github.com/bougou/go-ipmi/pkg/types"
	"github.com/bougou/go-ipmi/pkg/vmproto"

	"github.com/plumbline-sec/plumbline/measure/oob/wire"
)

// chassisStub is a machine that remembers what was done to it.
type chassisStub struct {
	mu   sync.Mutex
	off  bool
	done []Action
}

func (c *chassisStub) On(context.Context) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.off, nil
}

func (c *chassisStub) Do(_ context.Context, a Action) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done = append(c.done, a)
	c.off = a == PowerDown
	return nil
}

// station is a BMC on a loopback port with the three kinds of user.
type station struct {
	bmc     *BMC
	address string
	power   *chassisStub
	scanned chan [wire.NonceSize]byte
	release chan error
}

func newStation(t *testing.T) *station {
	t.Helper()
	s := &station{power: &chassisStub{}, scanned: make(chan [wire.NonceSize]byte, 8), release: make(chan error, 8)}
	var err error
	s.bmc, err = New(Options{
		Users: []User{
			{Name: "admin", Password: "lab-admin"},
			{Name: "verifier", Password: "lab-operator", Privilege: bmc.PrivilegeLevelOperator},
			{Name: "guest", Password: "lab-user", Privilege: bmc.PrivilegeLevelUser},
		},
		Power: s.power,
		Scan: func(_ context.Context, nonce [wire.NonceSize]byte) error {
			s.scanned <- nonce
			return <-s.release
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	lan, err := s.bmc.ListenLAN("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = lan.Address()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- lan.Serve(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return s
}

// ipmitool runs the tool that operators use, which no one here wrote.
func (s *station) ipmitool(t *testing.T, user, password, level string, args ...string) (string, error) {
	t.Helper()
	host, port, _ := net.SplitHostPort(s.address)
	base := []string{"-I", "lanplus", "-C", "17", "-H", host, "-p", port, "-U", user, "-P", password, "-L", level, "-N", "20", "-R", "2"}
	out, err := exec.Command("ipmitool", append(base, args...)...).CombinedOutput()
	return string(out), err
}

func (s *station) admin(t *testing.T, args ...string) string {
	t.Helper()
	out, err := s.ipmitool(t, "admin", "lab-admin", "ADMINISTRATOR", args...)
	if err != nil {
		t.Fatalf("ipmitool %v: %v\n%s", args, err, out)
	}
	return out
}

func TestIpmitoolWorksAgainstTheBMC(t *testing.T) {
	s := newStation(t)
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"mc", "info"}, "IPMI Version              : 2.0"},
		{[]string{"chassis", "power", "status"}, "Chassis Power is on"},
		{[]string{"chassis", "power", "reset"}, "Reset"},
		{[]string{"chassis", "power", "diag"}, "Diag"},
		{[]string{"chassis", "power", "off"}, "Down/Off"},
		{[]string{"chassis", "power", "status"}, "Chassis Power is off"},
		{[]string{"chassis", "power", "on"}, "Up/On"},
		{[]string{"mc", "reset", "cold"}, "cold reset"},
		{[]string{"sel", "info"}, "Entries          : 0"},
		{[]string{"raw", "0x06", "0x01"}, "20"},
	} {
		if out := s.admin(t, c.args...); !strings.Contains(out, c.want) {
			t.Errorf("ipmitool %v printed %q, want %q in it", c.args, out, c.want)
		}
	}
	want := []Action{HardReset, DiagnosticNMI, PowerDown, PowerUp}
	if !slices.Equal(s.power.done, want) {
		t.Errorf("the machine saw %v, want %v: mc reset must not touch it", s.power.done, want)
	}
}

func TestIpmitoolReadsAndClearsTheEventLog(t *testing.T) {
	s := newStation(t)
	s.bmc.AddEvent([16]byte{2: 0x02, 7: 0x20, 9: 0x04, 10: 0x12, 11: 0x01, 12: 0x6f})
	s.bmc.AddEvent([16]byte{2: wire.SELRecordType, 3: 0xaa})
	list := s.admin(t, "sel", "list")
	if n := strings.Count(strings.TrimSpace(list), "\n") + 1; n != 2 || !strings.Contains(list, "OEM record e1") {
		t.Errorf("sel list printed %q", list)
	}
	if out := s.admin(t, "sel", "clear"); !strings.Contains(out, "Clearing SEL") {
		t.Errorf("sel clear printed %q", out)
	}
	if out := s.admin(t, "sel", "info"); !strings.Contains(out, "Entries          : 0") {
		t.Errorf("after clear: %q", out)
	}
}

func startScan(nonce byte) []string {
	args := []string{"raw", "0x2e", "0x01", "0xd9", "0x7e", "0x00"}
	for range wire.NonceSize {
		args = append(args, "0x"+string("0123456789abcdef"[nonce>>4])+string("0123456789abcdef"[nonce&15]))
	}
	return args
}

func TestScanCommandStartsOneScanPerNonce(t *testing.T) {
	s := newStation(t)
	operator := func(args ...string) (string, error) {
		return s.ipmitool(t, "verifier", "lab-operator", "OPERATOR", args...)
	}
	if out, err := operator(startScan(0x11)...); err != nil || !strings.Contains(out, "d9 7e 00 01 01 11 11") {
		t.Fatalf("start: %q, %v", out, err)
	}
	if got := <-s.scanned; got[0] != 0x11 || got[31] != 0x11 {
		t.Fatalf("scan began with nonce %x", got)
	}
	if out, err := operator(startScan(0x11)...); err != nil {
		t.Errorf("the same nonce again: %q, %v", out, err)
	}
	if out, err := operator(startScan(0x22)...); err == nil || !strings.Contains(out, "rsp=0xc0") {
		t.Errorf("another nonce while one runs: %q, %v", out, err)
	}
	s.release <- nil
	s.bmc.Wait()
	if len(s.scanned) != 0 {
		t.Error("a repeated nonce measured twice")
	}
	out, err := operator("raw", "0x2e", "0x02", "0xd9", "0x7e", "0x00")
	if err != nil || !strings.Contains(out, "d9 7e 00 01 02 11") {
		t.Errorf("state: %q, %v", out, err)
	}
}

func TestBMCRefuses(t *testing.T) {
	s := newStation(t)
	for name, c := range map[string]struct {
		user, password, level string
		args                  []string
		want                  string
	}{
		"a wrong password":           {"admin", "wrong", "ADMINISTRATOR", []string{"mc", "info"}, "Unable to establish"},
		"an unknown user":            {"mallory", "lab-admin", "ADMINISTRATOR", []string{"mc", "info"}, "Unable to establish"},
		"more than the user's level": {"guest", "lab-user", "ADMINISTRATOR", []string{"mc", "info"}, "Unable to establish"},
		"a scan by a plain user":     {"guest", "lab-user", "USER", startScan(1), "rsp=0xd4"},
		"power off by a plain user":  {"guest", "lab-user", "USER", []string{"raw", "0x00", "0x02", "0x00"}, "rsp=0xd4"},
		"clearing by a plain user":   {"guest", "lab-user", "USER", []string{"raw", "0x0a", "0x47", "0", "0", "0x43", "0x4c", "0x52", "0xaa"}, "rsp=0xd4"},
		"a scan for another vendor":  {"verifier", "lab-operator", "OPERATOR", []string{"raw", "0x2e", "0x01", "1", "2", "3"}, "rsp=0xcc"},
	} {
		out, err := s.ipmitool(t, c.user, c.password, c.level, c.args...)
		if err == nil || !strings.Contains(out, c.want) {
			t.Errorf("%s: %q, %v; want %q", name, out, err, c.want)
		}
	}
	if len(s.power.done) != 0 || len(s.scanned) != 0 {
		t.Error("a refused command did something")
	}
}

// TestRefusesScanFromInside: the guest's own system interface must not be able
// to start a scan, and everything else on it works.
func TestRefusesScanFromInside(t *testing.T) {
	s := newStation(t)
	client := s.connectVM(t)
	if code, _, err := client.Command(0x06, 0x01); err != nil || code != 0 {
		t.Errorf("get device id in band: %v, %v", code, err)
	}
	if code, _, err := client.Command(0x06, 0x2f); err != nil || code != 0 {
		t.Errorf("get global enables in band: %v, %v", code, err)
	}
	code, _, err := client.Command(wire.NetFn, wire.CmdStartScan, wire.StartScan([wire.NonceSize]byte{1})...)
	if err != nil || code != byte(types.CodeInsufficientPrivilege) {
		t.Errorf("scan from inside: %#x, %v", code, err)
	}
	if len(s.scanned) != 0 {
		t.Error("the guest started a scan")
	}
}

// TestGuestCannotLockTheVerifierOut: what the guest may say on its own interface
// must change nothing about who reaches the BMC over the LAN.
func TestGuestCannotLockTheVerifierOut(t *testing.T) {
	s := newStation(t)
	client := s.connectVM(t)
	password := append([]byte("mallory's own"), make([]byte, 7)...)
	for name, c := range map[string]struct {
		command byte
		data    []byte
	}{
		"set password":    {0x47, append([]byte{0x80 | 3, 2}, password...)},
		"test password":   {0x47, append([]byte{0x80 | 3, 3}, append([]byte("lab-operator"), make([]byte, 8)...)...)},
		"disable user":    {0x47, []byte{3, 0}},
		"new user":        {0x45, append([]byte{5, 'm'}, make([]byte, 15)...)},
		"take privileges": {0x43, []byte{0x91, 3, 0x0f}},
		"close session":   {0x3c, []byte{1, 0, 0, 0}},
	} {
		code, _, err := client.Command(0x06, c.command, c.data...)
		if err != nil || code != byte(types.CodeInsufficientPrivilege) {
			t.Errorf("%s from inside: %#x, %v", name, code, err)
		}
	}
	user, err := s.bmc.state.Users.Get(3)
	if err != nil || !user.Enabled || user.ChannelAccess[lanChannel].MaxPrivilege != bmc.PrivilegeLevelOperator ||
		!user.VerifyPassword([]byte("lab-operator")) {
		t.Errorf("the verifier's user is now %+v, %v", user, err)
	}
}

func TestGuestCannotFloodTheAudit(t *testing.T) {
	var entries atomic.Int64
	b, err := New(Options{Users: []User{{Name: "admin", Password: "lab-admin"}}, Audit: func(Audit) { entries.Add(1) }})
	if err != nil {
		t.Fatal(err)
	}
	s := &station{bmc: b}
	client := s.connectVM(t)
	for range 3 * maxInsideAudits {
		if _, _, err := client.Command(0x06, 0x47, 2, 0); err != nil {
			t.Fatal(err)
		}
	}
	if entries.Load() != maxInsideAudits {
		t.Errorf("%d entries, want %d", entries.Load(), maxInsideAudits)
	}
}

func (s *station) connectVM(t *testing.T) *vmproto.Client {
	t.Helper()
	path := filepath.Join(t.TempDir(), "bmc")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.bmc.ServeVM(ctx, ln) }()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		cancel()
		<-served
	})
	return vmproto.NewClient(conn, 10*time.Minute)
}
