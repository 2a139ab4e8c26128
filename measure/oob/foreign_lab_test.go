//go:build lab

package oob

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/plumbline-sec/plumbline/internal/lab"
)

const simulatorLAN = `name "foreign"
set_working_mc 0x20
startlan 1
  addr 127.0.0.1 %s
  priv_limit admin
  allowed_auths_admin none md2 md5 straight
  guid a123456789abcdefa123456789abcdef
endlan
serial 15 127.0.0.1 %s codec VM
user 1 true "" "" user 10 none md2 md5 straight
user 2 true "verifier" "secret" admin 10 none md2 md5 straight
`

const simulatorBMC = "mc_setbmc 0x20\nmc_add 0x20 0 no-device-sdrs 0x23 9 8 0x9f 0x1291 0xf02 persist_sdr\nsel_enable 0x20 1000 0x0a\nmc_enable 0x20\n"

// foreignBMC puts OpenIPMI's simulator in the place of this package's BMC while
// the agent of selfScan goes on polling, and leaves a record with ipmitool: the
// agent answers one that nobody here wrote the way to.
func foreignBMC(t *testing.T, m *lab.Machine, ours string) {
	lan, vm := freePort(t, "udp"), freePort(t, "tcp")
	dir := t.TempDir()
	for name, text := range map[string]string{"lan.conf": fmt.Sprintf(simulatorLAN, lan, vm), "sim.emu": simulatorBMC} {
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
	// QEMU looks for its BMC on a Unix socket, the simulator listens on a port.
	bridge(t, ours, "127.0.0.1:"+vm)
	asked := func() int { return strings.Count(m.ShellT(t, "cat /tmp/agent.log"), "asks for a scan") }
	before := asked()
	waitFor(t, "the agent to poll the other BMC and see the record", func() bool {
		record := append(strings.Fields("raw 0x0a 0x44 0 0 0xe1 0xd9 0x7e 0"), strings.Fields("1 2 3 4 5 6 7 8 9 10")...)
		args := append(strings.Fields("-I lanplus -C 3 -H 127.0.0.1 -U verifier -P secret -L OPERATOR -p "+lan), record...)
		if out, err := exec.CommandContext(t.Context(), "ipmitool", args...).CombinedOutput(); err != nil {
			t.Logf("ipmitool: %v: %s", err, out)
		}
		return asked() > before
	})
}

// freePort chooses a loopback port that is free now.
func freePort(t *testing.T, network string) string {
	t.Helper()
	var address net.Addr
	if network == "udp" {
		c, err := net.ListenPacket(network, "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address = c.LocalAddr()
		defer c.Close()
	} else {
		l, err := net.Listen(network, "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address = l.Addr()
		defer l.Close()
	}
	_, port, _ := net.SplitHostPort(address.String())
	return port
}

// bridge passes connections on a Unix socket on to an address.
func bridge(t *testing.T, socket, to string) {
	t.Helper()
	os.Remove(socket)
	ln, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(func() { cancel(); ln.Close() })
	go func() {
		for {
			from, err := ln.Accept()
			if err != nil {
				return
			}
			var dialer net.Dialer
			conn, err := dialer.DialContext(ctx, "tcp", to)
			if err != nil {
				from.Close()
				continue // QEMU comes again
			}
			context.AfterFunc(ctx, func() { from.Close(); conn.Close() })
			go func() { io.Copy(conn, from); conn.Close() }()
			go func() { io.Copy(from, conn); from.Close() }()
		}
	}()
}
