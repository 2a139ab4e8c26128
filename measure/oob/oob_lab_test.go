//go:build lab

package oob

import (
	"context"
	"net"
	"strings"
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
	serveBoth(t, s, m.BMCSocket)

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

	t.Run("the machine measures itself", func(t *testing.T) { selfScan(t, m, s.address) })

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

func serveBoth(t *testing.T, s *station, socket string) {
	t.Helper()
	lan, err := s.bmc.ListenLAN("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.address = lan.Address()
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 2)
	go func() { served <- lan.Serve(ctx) }()
	go func() { served <- s.bmc.ServeVM(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			<-served
		}
	})
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		if done() {
			return
		}
	}
	t.Fatalf("waited a minute for %s", what)
}
