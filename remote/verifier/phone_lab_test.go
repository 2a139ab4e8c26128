//go:build lab

package verifier

import (
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/plumbline-sec/plumbline/remote"
)

// On a phone no page about retired and replaced machines is wider than the screen, whatever
// a reason has in it, and what can be used has a name there.
func TestRetiredPagesOnAPhone(t *testing.T) {
	r := start(t, twoMachines)
	r.enrol(t, "host1", remote.RoleHost)
	e := r.replacement(t, "tpm 2")
	if _, err := r.client.Decide(t.Context(), e.Key, remote.Decision{Accept: true, Reason: strings.Repeat("unbrokenword", 20)}); err != nil {
		t.Fatal(err)
	}
	r.replacement(t, "tpm 3")
	id := r.machine(t, "host1").Former[0].ID
	tab := browser(t)
	login(t, tab, r.serving.Address)
	for _, page := range []string{"/", "/review", "/retired", "/machines/host1", "/machines/" + id, "/events?host=" + id} {
		do(t, tab, page, chromedp.EmulateViewport(360, 800), chromedp.Navigate(r.serving.Address+page), chromedp.WaitVisible("main"))
		if width := value[int](t, tab, `document.documentElement.scrollWidth`); width > 360 {
			t.Errorf("%s is %d pixels wide", page, width)
		}
		if unnamed := value[string](t, tab, `Array.from(document.querySelectorAll("input:not([type=hidden]), button, a")).filter(e => !e.textContent.trim() && !e.labels?.length && !e.getAttribute("aria-label")).map(e => e.outerHTML).join()`); unnamed != "" {
			t.Errorf("%s: without a name: %s", page, unnamed)
		}
	}
}
