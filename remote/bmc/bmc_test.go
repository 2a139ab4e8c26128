package bmc_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	ipmi "github.com/bougou/go-ipmi/pkg/bmc"

	"github.com/plumbline-sec/plumbline/measure/oob"
	"github.com/plumbline-sec/plumbline/measure/oob/wire"
	"github.com/plumbline-sec/plumbline/remote/bmc"
)

// serve starts a BMC whose scans run until release is closed.
func serve(t *testing.T, scan func(context.Context, [wire.NonceSize]byte) error) (bmc.Target, *oob.BMC) {
	t.Helper()
	b, err := oob.New(oob.Options{
		Users: []oob.User{
			{Name: "verifier", Password: "a-password-of-20-byt", Privilege: ipmi.PrivilegeLevelOperator},
			{Name: "reader", Password: "other", Privilege: ipmi.PrivilegeLevelUser},
		},
		Scan: scan,
	})
	if err != nil {
		t.Fatal(err)
	}
	lan, err := b.ListenLAN("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- lan.Serve(ctx) }()
	t.Cleanup(func() { cancel(); <-served })
	return bmc.Target{Address: lan.Address(), Username: "verifier", Password: "a-password-of-20-byt", Timeout: time.Minute}, b
}

func TestTriggerRunsOneScan(t *testing.T) {
	nonces := make(chan [wire.NonceSize]byte, 4)
	target, b := serve(t, func(_ context.Context, n [wire.NonceSize]byte) error { nonces <- n; return nil })
	nonce := [wire.NonceSize]byte{1, 2, 3}
	for range 2 {
		if err := bmc.Trigger(t.Context(), target, nonce); err != nil {
			t.Fatal(err)
		}
	}
	b.Wait()
	if got := <-nonces; got != nonce || len(nonces) != 0 {
		t.Fatalf("scan with nonce %x, %d more", got, len(nonces))
	}
	state, err := bmc.State(t.Context(), target)
	if err != nil || state.Phase != wire.Done || state.Nonce != [8]byte{1, 2, 3} {
		t.Fatalf("state %+v, %v", state, err)
	}
}

func TestTriggerNamesWhatWentWrong(t *testing.T) {
	release := make(chan struct{})
	target, b := serve(t, func(context.Context, [wire.NonceSize]byte) error { <-release; return nil })
	t.Cleanup(func() { close(release); b.Wait() })
	if err := bmc.Trigger(t.Context(), target, [wire.NonceSize]byte{9}); err != nil {
		t.Fatal(err)
	}
	noAgent, _ := serve(t, nil)
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })

	wrong, unknown, reader, deaf := target, target, target, target
	wrong.Password = "wrong"
	unknown.Username = "mallory"
	reader.Username, reader.Password = "reader", "other"
	deaf.Address, deaf.Timeout = silent.LocalAddr().String(), time.Second
	for name, c := range map[string]struct {
		target bmc.Target
		want   error
	}{
		"wrong password":    {wrong, bmc.ErrAuthentication},
		"unknown user":      {unknown, bmc.ErrAuthentication},
		"too low a level":   {reader, bmc.ErrAuthentication},
		"no agent":          {noAgent, bmc.ErrNoAgent},
		"nobody there":      {deaf, bmc.ErrUnreachable},
		"another scan runs": {target, bmc.ErrBusy},
	} {
		err := bmc.Trigger(t.Context(), c.target, [wire.NonceSize]byte{1})
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// TestLeaveRecordWithForeignBMC leaves the record at OpenIPMI's simulator, which
// no one here wrote, and reads it back with ipmitool.
func TestLeaveRecordWithForeignBMC(t *testing.T) {
	target := startSimulator(t)
	nonce := [wire.NonceSize]byte{0xab, 0xcd, 0xef}
	if err := bmc.LeaveRecord(t.Context(), target, nonce); err != nil {
		t.Fatal(err)
	}
	host, port, _ := net.SplitHostPort(target.Address)
	out, err := exec.Command("ipmitool", "-I", "lanplus", "-N", "20", "-C", "3", "-H", host, "-p", port,
		"-U", target.Username, "-P", target.Password, "sel", "list").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "OEM record e1 | d97e00abcdef") {
		t.Fatalf("sel list: %s, %v", out, err)
	}
	// It refuses OEM commands that it does not know by the user's level first.
	if err := bmc.Trigger(t.Context(), target, nonce); !errors.Is(err, bmc.ErrPrivilege) {
		t.Errorf("a scan command at a BMC without an agent: %v", err)
	}
}

// startSimulator runs ipmi_sim with one operator on a free loopback port.
func startSimulator(t *testing.T) bmc.Target {
	t.Helper()
	probe, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(probe.LocalAddr().String())
	probe.Close()
	dir := t.TempDir()
	lan := fmt.Sprintf(`name "test"
set_working_mc 0x20
startlan 1
  addr 127.0.0.1 %s
  priv_limit admin
  allowed_auths_admin none md2 md5 straight
  guid a123456789abcdefa123456789abcdef
endlan
user 1 true "" "" user 10 none md2 md5 straight
user 2 true "verifier" "secret" admin 10 none md2 md5 straight
`, port)
	emulator := "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\nsel_enable 0x20 1000 0x0a\nmc_enable 0x20\n"
	for name, text := range map[string]string{"lan.conf": lan, "sim.emu": emulator} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	sim := exec.Command("ipmi_sim", "-n", "-c", filepath.Join(dir, "lan.conf"), "-f", filepath.Join(dir, "sim.emu"), "-s", dir)
	sim.Dir = dir
	if err := sim.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sim.Process.Kill(); sim.Wait() })
	target := bmc.Target{Address: "127.0.0.1:" + port, Username: "verifier", Password: "secret", Timeout: 20 * time.Second}
	var last error
	for range 3000 {
		if _, last = bmc.State(t.Context(), target); errors.Is(last, bmc.ErrPrivilege) {
			return target
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Fatalf("ipmi_sim does not answer: %v", last)
	return target
}
