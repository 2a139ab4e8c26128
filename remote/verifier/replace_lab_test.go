//go:build lab

package verifier

import (
	"crypto/ecdsa"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/plumbline-sec/plumbline/attest/tpm/tpmtest"
	"github.com/plumbline-sec/plumbline/remote"
)

// A main board is replaced: the new TPM proves itself under the old name and its maker is
// trusted, yet it is held back until a person accepts it. The TPM of before is retired: its
// agent is refused, and so is the TPM, whoever made it.
func TestReplacedMainBoard(t *testing.T) {
	before, after := tpmtest.Start(t), tpmtest.Start(t)
	r := start(t, fmt.Sprintf("listen = \"127.0.0.1:0\"\n[enrolment]\napproval = [\"ca\"]\nca = [%q, %q]\nintermediates = [%q, %q]\n",
		before.RootFile, after.RootFile, before.IntermediateFile, after.IntermediateFile))
	enrol := func(e *tpmtest.Emulator) (*newcomer, *ecdsa.PrivateKey, string, []byte, *remote.EnrolResult) {
		n := r.newcomer(t, e)
		key, csr := newRequest(t)
		req := n.request("host1")
		req.CSR = csr
		id, secret, result, err := n.prove(req)
		if err != nil {
			t.Fatal(err)
		}
		return n, key, id, secret, result
	}
	old, key, _, _, result := enrol(before)
	first := old.enrolled(result, key)
	if _, err := first.Commands(t.Context(), 0, 0); err != nil {
		t.Fatal(err)
	}

	board, key, id, secret, result := enrol(after)
	if result.State != remote.EnrolWaiting || !strings.Contains(result.Reason, "an administrator has to accept this one as its replacement") {
		t.Fatalf("another TPM under the name: %+v", result)
	}
	if _, err := first.Commands(t.Context(), 0, 0); err != nil {
		t.Errorf("the TPM of before, while nobody has decided: %v", err)
	}
	item := r.open(t)
	if item.Kind != reviewReplacement || item.Subject != board.id.Fingerprint().String() || !strings.Contains(item.Detail, old.id.Fingerprint().String()) {
		t.Errorf("%+v", item)
	}
	if _, err := r.client.Decide(t.Context(), item.ID, remote.Decision{Accept: true, Reason: "board replaced, ticket 7"}); err != nil {
		t.Fatal(err)
	}
	result, err := board.client.Answer(t.Context(), id, secret)
	if err != nil || result.State != remote.EnrolDone {
		t.Fatalf("accepted: %+v, %v", result, err)
	}
	if _, err := board.enrolled(result, key).Commands(t.Context(), 0, 0); err != nil {
		t.Errorf("with the new certificate: %v", err)
	}
	_, err = first.Commands(t.Context(), 0, 0)
	wantAPIError(t, "with the old one", err, http.StatusForbidden, remote.CodeRetired)
	m := r.machine(t, "host1")
	if m.Enrolment.Approval != "ca" || !strings.Contains(m.Enrolment.Detail, "board replaced, ticket 7") || m.Enrolment.EKDigest != item.Subject || len(m.Former) != 1 {
		t.Errorf("recorded: %+v", m.Machine)
	}
	if gone := r.machine(t, m.Former[0].ID); gone.Enrolment.EKDigest != old.id.Fingerprint().String() {
		t.Errorf("the record of before: %+v", gone.Machine)
	}
	_, _, _, err = old.prove(old.request("host2"))
	wantAPIError(t, "the TPM of before under another name", err, http.StatusForbidden, remote.CodeRetired)
}

// A machine is retired, and another TPM accepted under a name, in the browser; what was
// being written survives the page's coming up to date.
func TestRetireInTheBrowser(t *testing.T) {
	r := start(t, twoMachines)
	host := r.enrol(t, "host1", remote.RoleHost)
	r.judged(t, 1, func(n remote.Nonce) { host.send(remote.KindScan, host.scan("vm1", n, item("pass"))) })
	tab := browser(t)
	login(t, tab, r.serving.Address)
	do(t, tab, "open the machine", chromedp.Navigate(r.serving.Address+"/machines/vm1"),
		chromedp.Click(`[data-key="retire"] summary`), chromedp.SendKeys("#retire-reason", "change 47"))
	r.judged(t, 2, func(n remote.Nonce) { host.send(remote.KindScan, host.scan("vm1", n, item("fail"))) })
	appears(t, tab, ".machine-head", "untrusted")
	shoot(t, tab, "machine-retiring")
	do(t, tab, "retire it", chromedp.SendKeys("#retire-reason", "11"), chromedp.Click(`[data-key="retire"] button`))
	appears(t, tab, ".machine-head .notice", "by admin: change 4711")
	appears(t, tab, ".finding", "a byte of text was changed")
	do(t, tab, "see it", chromedp.WaitVisible(".machine-head .notice"))
	shoot(t, tab, "machine-retired")
	do(t, tab, "go to the fleet", chromedp.Click(`.crumbs a[href="/"]`), chromedp.WaitVisible(`a[href="/retired"]`))
	if value[bool](t, tab, `document.querySelector('.fleet a[href="/machines/vm1"]') !== null`) {
		t.Error("it is in the fleet")
	}
	do(t, tab, "list the retired", chromedp.Click(`a[href="/retired"]`), chromedp.WaitVisible(".fleet a.name"))
	appears(t, tab, ".fleet td", "change 4711")
	shoot(t, tab, "retired")

	e := r.replacement(t, "tpm 2")
	do(t, tab, "open the queue", chromedp.Navigate(r.serving.Address+"/review"), chromedp.WaitVisible("#reason-"+e.Key))
	appears(t, tab, "article.item", "Another TPM under this name")
	shoot(t, tab, "review-replacement")
	do(t, tab, "accept it", chromedp.SendKeys("#reason-"+e.Key, "new board"), chromedp.Click("#review-"+e.Key+" button[value=accept]"))
	appears(t, tab, "table td", "new board")
	if m := r.machine(t, "host1"); len(m.Former) != 1 || m.Former[0].By != User {
		t.Errorf("%+v", m.Former)
	}
	do(t, tab, "open the machine", chromedp.Navigate(r.serving.Address+"/machines/host1"))
	appears(t, tab, "main li", "new board")
	shoot(t, tab, "machine-replaced")
}
