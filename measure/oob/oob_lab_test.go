//go:build lab

package oob

import (
	"context"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/internal/lab"
)

// TestGuestAndLANShareOneBMC boots a machine whose ipmi-bmc-extern is this
// package's BMC and uses it from both sides.
func TestGuestAndLANShareOneBMC(t *testing.T) {
	m := lab.StartT(t, lab.Options{})
	s := &station{}
	link := &VMLink{}
	var err error
	s.bmc, err = New(Options{
		Users: []User{{Name: "admin", Password: "lab-admin"}},
		Link:  link,
		Power: QMPPower{Socket: m.QMP, Link: link},
	})
	if err != nil {
		t.Fatal(err)
	}
	serveLAN(t, s)
	stop := serveVM(t, s, m.BMCSocket)

	waitFor(t, "QEMU to find its BMC", link.Connected)
	// The driver gave up on the interface at boot, when nobody answered.
	m.ShellT(t, "modprobe -r ipmi_si ipmi_devintf 2>/dev/null; modprobe ipmi_devintf && modprobe ipmi_si")
	waitFor(t, "/dev/ipmi0 in the guest", func() bool {
		out, err := m.Shell(context.Background(), "ls /dev/ipmi0 2>/dev/null || true")
		return err == nil && strings.Contains(out, "/dev/ipmi0")
	})
	if out := m.ShellT(t, "dmesg | grep -i 'IPMI.*found' | tail -1"); !strings.Contains(strings.ToLower(out), "man_id: 0x007ed9") {
		t.Errorf("the guest found another BMC: %q", out)
	}

	t.Run("the machine measures itself", func(t *testing.T) {
		selfScan(t, m, s.address)
		stop()
		foreignBMC(t, m, m.BMCSocket)
	})
	serveVM(t, s, m.BMCSocket)
	waitFor(t, "QEMU to find its BMC again", link.Connected)

	if out := s.admin(t, "chassis", "power", "off"); !strings.Contains(out, "Down/Off") {
		t.Errorf("power off: %q", out)
	}
	waitFor(t, "the machine to be off", func() bool { return strings.Contains(s.admin(t, "chassis", "power", "status"), "is off") })
	if !m.Running() {
		t.Fatal("QEMU ended with its machine")
	}
	s.admin(t, "chassis", "power", "on")
	waitFor(t, "the machine to be on", func() bool { return strings.Contains(s.admin(t, "chassis", "power", "status"), "is on") })
}

// serveLAN serves the BMC's side of the network until the test ends.
func serveLAN(t *testing.T, s *station) {
	t.Helper()
	lan, err := s.bmc.ListenLAN("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = lan.Address()
	untilStopped(t, lan.Serve)
}

// serveVM serves the machine's side until the test ends or stop is called.
func serveVM(t *testing.T, s *station, socket string) (stop func()) {
	t.Helper()
	os.Remove(socket)
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	return untilStopped(t, func(ctx context.Context) error { return s.bmc.ServeVM(ctx, ln) })
}

func untilStopped(t *testing.T, serve func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- serve(ctx) }()
	stop = sync.OnceFunc(func() { cancel(); <-served })
	t.Cleanup(stop)
	return stop
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Minute); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if done() {
			return
		}
	}
	t.Fatalf("waited in vain for %s", what)
}
