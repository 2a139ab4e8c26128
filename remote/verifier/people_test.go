package verifier

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
)

// person is a browser without scripts.
type person struct {
	t      *testing.T
	r      *running
	client *http.Client
}

func (r *running) person(t *testing.T) *person {
	t.Helper()
	pool := x509.NewCertPool()
	pool.AddCert(r.authority.cert)
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Jar: jar, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	t.Cleanup(client.CloseIdleConnections)
	return &person{t, r, client}
}

func (p *person) do(method, path string, form url.Values, headers map[string]string) (*http.Response, string) {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), method, p.r.serving.Address+path, strings.NewReader(form.Encode()))
	if err != nil {
		p.t.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for name, value := range headers {
		req.Header.Set(name, value)
	}
	resp, err := p.client.Do(req)
	if err != nil {
		p.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	return resp, string(body)
}

func (p *person) login(password string) (*http.Response, string) {
	return p.do("POST", "/login", url.Values{"password": {password}}, nil)
}

var formToken = regexp.MustCompile(`name="form" value="([^"]+)"`)

func TestLogin(t *testing.T) {
	r := start(t, twoMachines)
	p := r.person(t)
	resp, body := p.do("GET", "/machines/vm1", nil, nil)
	if resp.Request.URL.Path != "/login" || resp.Request.URL.Query().Get("next") != "/machines/vm1" || strings.Contains(body, "host1") {
		t.Errorf("without a login: %s", resp.Request.URL)
	}
	if resp, _ = p.login("wrong"); resp.StatusCode != 401 {
		t.Errorf("wrong password: %s", resp.Status)
	}
	if resp, body = p.login(password); resp.StatusCode != 200 || !strings.Contains(body, "vm1") {
		t.Fatalf("right password: %s", resp.Status)
	}
	for _, want := range []string{"default-src 'none'", "frame-ancestors 'none'", "form-action 'self'"} {
		if !strings.Contains(resp.Header.Get("Content-Security-Policy"), want) {
			t.Errorf("policy %q lacks %s", resp.Header.Get("Content-Security-Policy"), want)
		}
	}
	if resp.Header.Get("X-Content-Type-Options") != "nosniff" || resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("headers %v", resp.Header)
	}
	token := formToken.FindStringSubmatch(body)
	p.do("POST", "/logout", url.Values{"form": {token[1]}}, nil)
	if resp, _ = p.do("GET", "/", nil, nil); resp.Request.URL.Path != "/login" {
		t.Errorf("after logging out: %s", resp.Request.URL)
	}
}

func TestSessionCookie(t *testing.T) {
	r := start(t, twoMachines)
	p := r.person(t)
	p.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, _ := p.login(password)
	cookies := resp.Cookies()
	if len(cookies) != 1 {
		t.Fatalf("cookies %v", cookies)
	}
	c := cookies[0]
	if !c.HttpOnly || !c.Secure || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || !strings.HasPrefix(c.Name, "__Host-") {
		t.Errorf("cookie %s", c)
	}
	if resp.Header.Get("Location") != "/" {
		t.Errorf("goes to %s", resp.Header.Get("Location"))
	}
}

// A login leads only to a page of ours.
func TestLoginLeadsNowhereElse(t *testing.T) {
	r := start(t, twoMachines)
	for _, next := range []string{"https://evil.example/", "//evil.example/", `/\evil.example`, "javascript:alert(1)", ""} {
		p := r.person(t)
		p.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		resp, _ := p.do("POST", "/login", url.Values{"password": {password}, "next": {next}}, nil)
		if resp.Header.Get("Location") != "/" {
			t.Errorf("next=%q leads to %s", next, resp.Header.Get("Location"))
		}
	}
}

func TestRefusesForgedForms(t *testing.T) {
	r := start(t, twoMachines)
	r.enrol(t, "host1", remote.RoleHost)
	p := r.person(t)
	_, body := p.login(password)
	token := formToken.FindStringSubmatch(body)[1]
	for name, test := range map[string]struct {
		path    string
		form    url.Values
		headers map[string]string
	}{
		"no token":          {"/machines/vm1/scan", url.Values{}, nil},
		"wrong token":       {"/machines/vm1/scan", url.Values{"form": {"x"}}, nil},
		"another site":      {"/machines/vm1/scan", url.Values{"form": {token}}, map[string]string{"Origin": "https://evil.example"}},
		"cross-site":        {"/machines/vm1/scan", url.Values{"form": {token}}, map[string]string{"Sec-Fetch-Site": "cross-site"}},
		"API by the cookie": {"/v1/hosts/vm1/scan", url.Values{}, nil},
	} {
		if resp, _ := p.do("POST", test.path, test.form, test.headers); resp.StatusCode != 403 {
			t.Errorf("%s: %s", name, resp.Status)
		}
	}
	if len(r.machine(t, "vm1").Scans) != 0 {
		t.Error("a forged form fired a scan")
	}
	if resp, _ := p.do("POST", "/machines/vm1/scan", url.Values{"form": {token}}, nil); resp.StatusCode != 200 {
		t.Errorf("true form: %s", resp.Status)
	}
	if len(r.machine(t, "vm1").Scans) != 1 {
		t.Error("the true form fired no scan")
	}
}

func TestGuessingIsSlowedDown(t *testing.T) {
	r := start(t, twoMachines)
	p := r.person(t)
	for range 5 {
		if resp, _ := p.login("guess"); resp.StatusCode != 401 {
			t.Fatalf("guess: %s", resp.Status)
		}
	}
	if resp, _ := p.login(password); resp.StatusCode != 429 {
		t.Errorf("the sixth attempt, with the right password: %s", resp.Status)
	}
}

func TestAPINeedsAToken(t *testing.T) {
	r := start(t, twoMachines)
	for _, token := range []string{"", "wrong"} {
		client, err := remote.NewClient(remote.ClientOptions{Address: r.serving.Address, Trust: r.trust(t), Token: token})
		if err != nil {
			t.Fatal(err)
		}
		_, err = client.Machines(t.Context())
		wantAPIError(t, "token "+token, err, 401, remote.CodeUnauth)
		_, err = client.StartScan(t.Context(), "vm1")
		wantAPIError(t, "scan with token "+token, err, 401, remote.CodeUnauth)
	}
	p := r.person(t)
	for _, path := range []string{"/metrics", "/v1/stream", "/v1/events", "/v1/review", "/v1/scans/x", "/v1/hosts/vm1"} {
		if resp, _ := p.do("GET", path, nil, nil); resp.StatusCode != 401 {
			t.Errorf("GET %s without a token: %s", path, resp.Status)
		}
	}
}

// A guest that changes many files and puts them back must not push the one that
// it did not put back out of the queue.
func TestOpenReviewsAreNotPushedOut(t *testing.T) {
	r := start(t, twoMachines)
	at := r.now().Add(-time.Hour)
	entry := func(id string, state string) store.Change {
		at = at.Add(time.Millisecond)
		return create(inReviews, id, "vm1", at, reviewEntry{Review: remote.Review{ID: id, Kind: reviewFile, Machine: "vm1", Subject: "/usr/sbin/" + id, State: state}})
	}
	changes := []store.Change{entry("sshd", reviewOpen)}
	for i := range maxReviews + 1 {
		changes = append(changes, entry(fmt.Sprintf("noise-%d", i), reviewRestored))
	}
	if err := r.store.Apply(t.Context(), nil, changes...); err != nil {
		t.Fatal(err)
	}
	if items, err := r.client.Reviews(t.Context(), reviewOpen); err != nil || len(items) != 1 || items[0].ID != "sshd" {
		t.Errorf("open items: %+v, %v", items, err)
	}
	p := r.person(t)
	p.login(password)
	if _, body := p.do("GET", "/review", nil, nil); !strings.Contains(body, "/usr/sbin/sshd") {
		t.Error("the console does not show it")
	}
}

func TestMetrics(t *testing.T) {
	r := start(t, twoMachines)
	host := r.enrol(t, "host1", remote.RoleHost)
	r.judged(t, 1, func(n remote.Nonce) { host.send(remote.KindScan, host.scan("vm1", n, item("pass"))) })
	host.seq += 3
	host.send(remote.KindStatus, status(remote.AgentRunning))
	_, body := r.person(t).do("GET", "/metrics", nil, map[string]string{"Authorization": "Bearer " + r.token(t)})
	for _, want := range []string{
		`plumbline_machine_state{machine="vm1",state="trusted"} 1`, `plumbline_scans_total{outcome="pass"} 1`,
		`plumbline_last_success_timestamp_seconds{duty="scan",machine="vm1"}`, "plumbline_lost_records_total 3",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
}

func TestSecretsAreForTheirOwnerOnly(t *testing.T) {
	dir := t.TempDir()
	p, err := openPeople(dir)
	if err != nil {
		t.Fatal(err)
	}
	if p.firstTime == "" {
		t.Error("no password was made")
	}
	for _, name := range []string{passwordFile, passwordHashFile, tokenFile} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	again, err := openPeople(dir)
	if err != nil || again.firstTime != "" || again.hash != p.hash || again.token != p.token {
		t.Errorf("the second time: %+v, %v", again, err)
	}
	if ok, err := checkPassword(p.hash, p.firstTime); !ok || err != nil {
		t.Errorf("the password that was made: %t, %v", ok, err)
	}
}

func TestCheckPasswordRefusesOtherHashes(t *testing.T) {
	for _, hash := range []string{"", "plain", "$2a$10$abc", "$argon2id$v=19$m=999999999,t=1,p=1$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAA",
		"$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$", "$argon2id$v=1$m=8,t=1,p=1$c2FsdHNhbHQ$AAAAAAAAAAAAAAAAAAAAAA"} {
		if ok, err := checkPassword(hash, ""); ok || err == nil {
			t.Errorf("hash %q: %t, %v", hash, ok, err)
		}
	}
}
