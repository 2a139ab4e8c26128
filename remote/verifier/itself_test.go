package verifier

import (
	"fmt"
	"testing"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/remote"
)

// Who took over a guest that has an agent of its own calls neither its files nor what is
// watched of them as they should be: its host does.
func TestGuestDoesNotSpeakForItsFiles(t *testing.T) {
	r := start(t, twoMachines)
	host := r.enrol(t, "host1", remote.RoleHost)
	w := newWatch(t, host, "vm1")
	w.capture(0, file("/etc/motd", 1, "hello"))
	r.said(t, "vm1", "a baseline of vm1 was taken")
	w.settle(w.event(filewatch.OpWrite, file("/etc/motd", 1, "x")), file("/etc/motd", 1, "changed"))
	r.violations(t, 1)

	guest := r.enrol(t, "vm1", remote.RoleGuest)
	own := newWatch(t, guest, "vm1")
	refusals := func(n int, what string) {
		t.Helper()
		eventually(t, what+" to be refused", func() bool {
			count := 0
			for _, m := range r.machine(t, "vm1").Timeline {
				if containsFold(m.Text, "vm1 is measured by host1: what its own agent says of it does not count") {
					count++
				}
			}
			return count == n
		})
	}
	before := r.machine(t, "vm1").Files
	own.stream = w.stream
	own.seq = w.seq
	own.settle(own.event(filewatch.OpWrite, file("/etc/motd", 1, "hello")), file("/etc/motd", 1, "hello"))
	own.capture(0, file("/etc/motd", 1, "hello"))
	guest.send(remote.KindScan, remote.Scan{Target: "vm1", Nonce: newNonce(), Error: "x"})
	refusals(5, "watch, two events, capture and scan")
	if after := r.machine(t, "vm1").Files; fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("files: %+v, before %+v", after, before)
	}
	// The benign twins: what an agent says of itself, and what the host says.
	guest.send(remote.KindStatus, remote.Status{State: remote.AgentStopping})
	r.said(t, "vm1", "the agent on vm1 stops")
	w.settle(w.event(filewatch.OpWrite, file("/etc/motd", 1, "hello")), file("/etc/motd", 1, "hello"))
	r.violations(t, 0)
}
