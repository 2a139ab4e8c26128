//go:build lab

package verifier

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"

	"github.com/plumbline-sec/plumbline/attest"
	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/remote"
)

// browser starts a real headless Chromium that trusts nothing it is not told
// to and asks nobody for anything.
func browser(t *testing.T) context.Context {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
		chromedp.Flag("ignore-certificate-errors", true), // the browser does not know our authority
		// Its directory is of its own making: what a browser leaves running may still
		// write there, and is ended before it goes.
		chromedp.WSURLReadTimeout(patience), chromedp.WindowSize(1440, 1000))
	allocated, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	tab, cancel := chromedp.NewContext(allocated)
	t.Cleanup(cancel)
	// The first call starts the browser and must not be the one that is bounded.
	if err := chromedp.Do(tab, chromedp.Navigate("about:blank")); err != nil {
		t.Fatalf("start Chromium (package chromium): %v", err)
	}
	tab, cancel = context.WithTimeout(tab, 2*patience)
	t.Cleanup(cancel)
	return tab
}

func do(t *testing.T, tab context.Context, what string, actions ...chromedp.Action[chromedp.Void]) {
	t.Helper()
	if err := chromedp.Do(tab, actions...); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// value is what an expression comes to in the page.
func value[T any](t *testing.T, tab context.Context, expression string) T {
	t.Helper()
	v, err := chromedp.Run(tab, chromedp.Evaluate[T](expression))
	if err != nil {
		t.Fatalf("evaluate %s: %v", expression, err)
	}
	return v
}

// shoot keeps a picture of the page where $PLUMBLINE_PICTURES says.
func shoot(t *testing.T, tab context.Context, name string) {
	t.Helper()
	dir := os.Getenv("PLUMBLINE_PICTURES")
	if dir == "" {
		return
	}
	picture, err := chromedp.Run(tab, chromedp.FullScreenshot(100))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o644); err != nil {
		t.Fatal(err)
	}
}

func login(t *testing.T, tab context.Context, address string) {
	t.Helper()
	do(t, tab, "log in",
		chromedp.Navigate(address+"/"),
		chromedp.WaitVisible("#password"),
		chromedp.SendKeys("#password", password+"\r"),
		chromedp.WaitVisible("body[data-live]"))
}

// appears waits until the page shows text in what selector names.
func appears(t *testing.T, tab context.Context, selector, text string) {
	t.Helper()
	quoted, err := json.Marshal([]string{selector, text})
	if err != nil {
		t.Fatal(err)
	}
	expression := "((a) => Array.from(document.querySelectorAll(a[0])).some((e) => e.textContent.includes(a[1])))(" + string(quoted) + ")"
	var last error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		yes, err := chromedp.Run(tab, chromedp.Evaluate[bool](expression))
		if yes {
			return
		}
		last = err // such as that the page is just being left for another
	}
	shoot(t, tab, "failed")
	t.Fatalf("%q never appeared in %s: %v", text, selector, last)
}

// mark sets something in the page that a reload would lose.
func mark(t *testing.T, tab context.Context) (unmoved func()) {
	t.Helper()
	value[bool](t, tab, `window.notReloaded = true`)
	return func() {
		t.Helper()
		if !value[bool](t, tab, `window.notReloaded === true`) {
			t.Error("the page was reloaded")
		}
	}
}

// A tamper is on the page without a reload: a scan that fails, then a file that
// changed, then their restoration.
func TestTamperAppearsWithoutReload(t *testing.T) {
	r := start(t, twoMachines)
	host := r.enrol(t, "host1", remote.RoleHost)
	r.judged(t, 1, func(n remote.Nonce) { host.send(remote.KindScan, host.scan("vm1", n, item("pass"))) })
	tab := browser(t)
	do(t, tab, "see the login", chromedp.Navigate(r.serving.Address+"/"), chromedp.WaitVisible("#password"))
	shoot(t, tab, "login")
	login(t, tab, r.serving.Address)
	appears(t, tab, ".fleet .row-trusted", "vm1")
	shoot(t, tab, "fleet-trusted")

	unmoved := mark(t, tab)
	r.judged(t, 2, func(n remote.Nonce) { host.send(remote.KindScan, host.scan("vm1", n, item("pass"), item("fail"))) })
	appears(t, tab, ".fleet .row-untrusted", "vm1")
	appears(t, tab, ".timeline", "do_idt+0x4: a byte of text was changed")
	unmoved()

	do(t, tab, "open the machine", chromedp.Click(`.fleet a.name[href="/machines/vm1"]`), chromedp.WaitVisible(".machine-head"))
	unmoved = mark(t, tab)
	appears(t, tab, ".finding", "a byte of text was changed")
	appears(t, tab, ".finding .expected", "90")
	appears(t, tab, ".finding .observed", "cc")

	watch := newWatch(t, host, "vm1")
	watch.capture(0, file("/etc/motd", 1, "hello"), file("/usr/bin/env", 2, "elf"))
	r.said(t, "vm1", "a baseline of vm1 was taken")
	number := watch.event(filewatch.OpWrite, file("/usr/bin/env", 2, "x"))
	watch.settle(number, file("/usr/bin/env", 2, "evil"))
	appears(t, tab, "#review", "/usr/bin/env")
	hostile := "/tmp/<img src=x onerror=alert(1)>\x1b[2J\u202egpj.exe"
	number = watch.event(filewatch.OpCreate, file(hostile, 9, "x"))
	watch.settle(number, file(hostile, 9, "x"))
	appears(t, tab, "#review", `<img src=x onerror=alert(1)>\x1b[2J`)
	if value[bool](t, tab, `document.querySelector("main img") !== null`) {
		t.Error("a file's name made an element of the page")
	}
	shoot(t, tab, "machine-untrusted")

	number = watch.event(filewatch.OpWrite, file("/usr/bin/env", 2, "x"))
	watch.settle(number, file("/usr/bin/env", 2, "elf"))
	watch.event(filewatch.OpUnlink, file(hostile, 9, "x"))
	r.judged(t, 3, func(n remote.Nonce) { host.send(remote.KindScan, host.scan("vm1", n, item("pass"))) })
	appears(t, tab, ".machine-head.row-trusted", "vm1")
	unmoved()
	shoot(t, tab, "machine-restored")
}

// What a person is doing survives the page's coming up to date.
func TestHalfWrittenDecisionSurvivesAnUpdate(t *testing.T) {
	r := start(t, twoMachines)
	host := r.enrol(t, "host1", remote.RoleHost)
	watch := newWatch(t, host, "vm1")
	watch.capture(0, file("/etc/motd", 1, "hello"))
	r.said(t, "vm1", "a baseline of vm1 was taken")
	number := watch.event(filewatch.OpWrite, file("/etc/motd", 1, "x"))
	watch.settle(number, file("/etc/motd", 1, "changed"))
	tab := browser(t)
	login(t, tab, r.serving.Address)
	do(t, tab, "open the queue", chromedp.Navigate(r.serving.Address+"/review"), chromedp.WaitVisible(".decide input[name=reason]"),
		chromedp.SendKeys(".decide input[name=reason]", "change 47"))
	number = watch.event(filewatch.OpCreate, file("/etc/evil", 7, "x"))
	watch.settle(number, file("/etc/evil", 7, "x"))
	appears(t, tab, "article.item", "/etc/evil")
	id := reviewID("vm1", "/etc/motd")
	do(t, tab, "finish the sentence", chromedp.SendKeys("#reason-"+id, "11"), chromedp.Click("#review-"+id+" button[value=accept]"))
	appears(t, tab, "table td", "change 4711")
	shoot(t, tab, "review")
	if items, err := r.client.Reviews(t.Context(), "accepted"); err != nil || len(items) != 1 || items[0].Reason != "change 4711" || items[0].DecidedBy != User {
		t.Errorf("decided: %+v, %v", items, err)
	}
}

// Every page shows in both colour schemes, and none of them breaks its own
// content security policy.
func TestPages(t *testing.T) {
	r := start(t, strings.Replace(twoMachines, "[[host]]\nname = \"host1\"", "[[host]]\nname = \"host1\"\n[[host]]\nname = \"db-01\"\n[[host]]\nname = \"edge-3\"", 1))
	host := r.enrol(t, "host1", remote.RoleHost)
	r.enrol(t, "vm1", remote.RoleGuest)
	boot := storeBoot(t, r, "vm1")
	scan := r.judged(t, 1, func(n remote.Nonce) {
		host.send(remote.KindScan, host.scan("vm1", n, item("pass"), item("fail"), item("not-measured")))
	})
	watch := newWatch(t, host, "vm1")
	watch.capture(0, file("/etc/motd", 1, "hello"), file("/etc/passwd", 3, "root"))
	r.said(t, "vm1", "a baseline of vm1 was taken")
	watch.settle(watch.event(filewatch.OpWrite, file("/etc/motd", 1, "x")), file("/etc/motd", 1, "changed"))
	eventually(t, "the review item", func() bool { return r.machine(t, "vm1").Files.Violations == 1 })

	tab := browser(t)
	var foreign []string
	login(t, tab, r.serving.Address)
	for _, page := range []struct{ name, path string }{
		{"fleet", "/"}, {"machine", "/machines/vm1"}, {"host", "/machines/host1"}, {"empty", "/machines/db-01"},
		{"scan", "/scans/" + scan.ID}, {"boot", "/boots/" + boot}, {"events", "/events"}, {"queue", "/review"}, {"missing", "/nowhere"},
	} {
		for _, scheme := range []string{"light", "dark"} {
			do(t, tab, page.name, prefer(scheme), chromedp.Navigate(r.serving.Address+page.path), chromedp.WaitVisible("main h1"))
			foreign = append(foreign, value[[]string](t, tab,
				`performance.getEntriesByType("resource").map((e) => e.name).filter((n) => !n.startsWith(location.origin))`)...)
			shoot(t, tab, page.name+"-"+scheme)
		}
	}
	if len(foreign) > 0 {
		t.Errorf("pages loaded from elsewhere: %q", foreign)
	}
}

// prefer sets the colour scheme that the person prefers.
func prefer(scheme string) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}}})
		return err
	})
}

// storeBoot puts an appraisal into the store, as attest.Verify would give it.
func storeBoot(t *testing.T, r *running, name string) (id string) {
	t.Helper()
	yes, event, pcr := true, 14, 4
	result := &attest.Result{Outcome: attest.Fail, Policy: "web servers", Checks: []attest.Check{
		{Name: attest.CheckQuote, Outcome: attest.Pass, Reason: "24 PCRs of bank sha256"},
		{Name: attest.CheckEventLog, Outcome: attest.Pass, Reason: "37 events reproduce PCRs 0-7, 9 and 11"},
		{Name: attest.CheckBoot, Outcome: attest.Fail, Findings: []attest.Finding{{Log: "tcg", Event: &event, PCR: &pcr, File: `\EFI\BOOT\BOOTX64.EFI`,
			Expected: "2f7c1d0e55aa", Observed: "90ab12cd77ff", Explanation: "the firmware started an image that the policy does not allow"}}},
		{Name: attest.CheckIMA, Outcome: attest.NotMeasured, Reason: "the evidence has no IMA list"},
	}, Claims: attest.Claims{ResetCount: 4, SecureBoot: &yes, CommandLine: "root=/dev/vda ro ima_policy=tcb", Boot: []string{
		"Firmware: EDK II 2022.11, Secure Boot on", `Loaded \EFI\BOOT\BOOTX64.EFI (unknown image)`, "Kernel command line: root=/dev/vda ro ima_policy=tcb"}}}
	a := remote.Appraisal{ID: newID(), Machine: name, Outcome: "fail", At: r.now(), Policy: result.Policy, Boot: result.Claims.Boot, Result: encode(result)}
	d, err := r.loadMachine(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	d.V.Boot.ID, d.V.Boot.Outcome, d.V.Boot.LastSuccess = a.ID, a.Outcome, a.At
	if err := r.apply(t.Context(), nil, d.change(), create(inAppraisals, a.ID, name, a.At, a)); err != nil {
		t.Fatal(err)
	}
	return a.ID
}
