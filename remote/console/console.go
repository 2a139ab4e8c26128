// Package console is the verifier's pages for people. It shows what the API
// says and does what the API does; it has no data of its own.
//
// Pages are made on the server by html/template, which escapes everything that
// came from a machine. One small script of ours keeps the page up to date: it
// hears of a change through server-sent events and fetches the page anew. The
// pages work without it, and nothing is loaded from anywhere else: the content
// security policy forbids it.
package console

import (
	"bytes"
	"context"
	"crypto/subtle"
	"embed"
	"errors"
	"html/template"
	"io/fs"
	"net/http"
	"net/url"
	"strings"

	"github.com/plumbline-sec/plumbline/remote"
)

//go:embed static templates
var files embed.FS

// Backend is what the console shows, and the logins it checks.
type Backend interface {
	Machines(ctx context.Context) ([]remote.Machine, error)
	Machine(ctx context.Context, name string) (*remote.MachineDetail, error)
	Scan(ctx context.Context, id string) (*remote.ScanEntry, error)
	Appraisal(ctx context.Context, id string) (*remote.Appraisal, error)
	Events(ctx context.Context, q remote.EventQuery) ([]remote.FileEvent, error)
	Reviews(ctx context.Context, state string) ([]remote.Review, error)
	Timeline(ctx context.Context, machine string, limit int) ([]remote.Moment, error)
	Overview(ctx context.Context) (Overview, error)

	Retired(ctx context.Context) ([]remote.Machine, error)
	Retire(ctx context.Context, name, who, reason string) (*remote.Retirement, error)
	Readmit(ctx context.Context, name, who, reason string) error
	StartScan(ctx context.Context, name, who string) (*remote.ScanEntry, error)
	StartAttestation(ctx context.Context, name, who string) error
	StartBaseline(ctx context.Context, name, who string) error
	Decide(ctx context.Context, id, who string, d remote.Decision) (*remote.Review, error)

	Session(r *http.Request) (*Session, error) // nil: nobody is logged in
	Login(w http.ResponseWriter, r *http.Request, password string) error
	Logout(w http.ResponseWriter, r *http.Request) error
}

// Session is a person's login.
type Session struct {
	User string
	Form string // must come back with every form
}

// Overview is what every page shows.
type Overview struct {
	Review      int    // open items
	Fingerprint string // of the verifier's authority
}

// policy is the content security policy (W3C CSP 3): everything from here,
// nothing inline, no frames, forms only to here.
const policy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; base-uri 'none'; frame-ancestors 'none'"

// maxForm bounds a submitted form.
const maxForm = 64 << 10

// console is the handler.
type console struct {
	Backend
	pages map[string]*template.Template
}

// New returns the console's handler, for the path "/".
func New(b Backend) http.Handler {
	c := &console{Backend: b, pages: parsePages()}
	mux := http.NewServeMux()
	static, err := fs.Sub(files, "static")
	if err != nil {
		panic(err) // the directory is embedded
	}
	mux.Handle("GET /static/", http.StripPrefix("/static/", cached(http.FileServerFS(static))))
	mux.HandleFunc("GET /favicon.ico", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "/static/plumb.svg", http.StatusSeeOther)
	})
	mux.HandleFunc("GET /login", c.showLogin)
	mux.HandleFunc("POST /login", c.login)
	mux.Handle("POST /logout", c.action(c.logout))
	mux.Handle("GET /{$}", c.page(c.fleet))
	mux.Handle("GET /machines/{name}", c.page(c.machine))
	mux.Handle("GET /retired", c.page(c.retired))
	mux.Handle("GET /scans/{id}", c.page(c.scan))
	mux.Handle("GET /boots/{id}", c.page(c.boot))
	mux.Handle("GET /events", c.page(c.events))
	mux.Handle("GET /review", c.page(c.review))
	mux.Handle("POST /machines/{name}/{action}", c.action(c.start))
	mux.Handle("POST /review/{id}", c.action(c.decide))
	mux.Handle("/", c.page(func(*http.Request, *Session) (*view, error) { return nil, errNoPage }))
	// Go refuses what another site submits by itself (Fetch Metadata, Origin);
	// the form token below holds for browsers that say neither.
	return secure(http.NewCrossOriginProtection().Handler(mux))
}

var errNoPage = &remote.Error{Status: http.StatusNotFound, Code: remote.CodeNotFound, Message: "There is no such page."}

func secure(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", policy)
		w.Header().Set("Cross-Origin-Opener-Policy", "same-origin")
		next.ServeHTTP(w, r)
	})
}

func cached(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-cache")
		next.ServeHTTP(w, r)
	})
}

// view is one page to show.
type view struct {
	Template string
	Title    string
	Machine  string // whose changes concern the page; empty: everybody's
	Data     any

	// filled in by page:
	Section  string
	Session  *Session
	Overview Overview
	Error    string
}

// page makes a handler that shows a page to who is logged in.
func (c *console) page(make func(*http.Request, *Session) (*view, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		session, err := c.Session(r)
		if err == nil && session == nil {
			http.Redirect(w, r, "/login?next="+url.QueryEscape(r.URL.RequestURI()), http.StatusSeeOther)
			return
		}
		var v *view
		if err == nil {
			v, err = make(r, session)
		}
		if err != nil {
			c.showError(w, r, session, err)
			return
		}
		c.show(w, r, http.StatusOK, session, v)
	})
}

func (c *console) show(w http.ResponseWriter, r *http.Request, status int, session *Session, v *view) {
	v.Session, v.Section = session, section(r.URL.Path)
	if session != nil {
		overview, err := c.Backend.Overview(r.Context())
		if err != nil {
			status, v = http.StatusInternalServerError, &view{Template: "error", Title: "Error", Session: session, Data: err.Error()}
		}
		v.Overview = overview
	}
	var page bytes.Buffer
	if err := c.pages[v.Template].ExecuteTemplate(&page, "layout", v); err != nil {
		http.Error(w, "the page could not be made: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write(page.Bytes())
}

func section(path string) string {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch first {
	case "", "machines", "retired", "scans", "boots":
		return "fleet"
	}
	return first
}

func (c *console) showError(w http.ResponseWriter, r *http.Request, session *Session, err error) {
	status, text := http.StatusInternalServerError, "Something went wrong; the verifier's log has the details."
	var known *remote.Error
	if errors.As(err, &known) {
		status, text = known.Status, known.Message
		if known.Hint != "" {
			text += ": " + known.Hint
		}
	}
	c.show(w, r, status, session, &view{Template: "error", Title: http.StatusText(status), Data: text})
}

// action makes a handler for a form of who is logged in; it checks the form's
// token and goes to the page that do names.
func (c *console) action(do func(http.ResponseWriter, *http.Request, *Session) (next string, err error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		session, err := c.Session(r)
		if err == nil && session == nil {
			http.Redirect(w, r, "/login", http.StatusSeeOther)
			return
		}
		next := ""
		if err == nil {
			r.Body = http.MaxBytesReader(w, r.Body, maxForm)
			if subtle.ConstantTimeCompare([]byte(r.PostFormValue("form")), []byte(session.Form)) != 1 {
				err = &remote.Error{Status: http.StatusForbidden, Code: remote.CodeForbidden,
					Message: "The form was not made for this login", Hint: "reload the page and try again"}
			} else {
				next, err = do(w, r, session)
			}
		}
		if err != nil {
			c.showError(w, r, session, err)
			return
		}
		http.Redirect(w, r, next, http.StatusSeeOther)
	})
}

func (c *console) showLogin(w http.ResponseWriter, r *http.Request) {
	c.show(w, r, http.StatusOK, nil, &view{Template: "login", Title: "Log in", Data: localPath(r.FormValue("next"))})
}

func (c *console) login(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	next := localPath(r.PostFormValue("next"))
	err := c.Backend.Login(w, r, r.PostFormValue("password"))
	if err == nil {
		http.Redirect(w, r, next, http.StatusSeeOther)
		return
	}
	status, text := http.StatusInternalServerError, "The login could not be checked; the verifier's log has the details."
	var known *remote.Error
	if errors.As(err, &known) {
		status, text = known.Status, known.Message
	}
	c.show(w, r, status, nil, &view{Template: "login", Title: "Log in", Data: next, Error: text})
}

// localPath keeps a login from leading anywhere but to a page of ours.
func localPath(next string) string {
	u, err := url.Parse(next)
	if err != nil || u.IsAbs() || u.Host != "" || !strings.HasPrefix(next, "/") || strings.HasPrefix(next, "//") || strings.Contains(next, "\\") {
		return "/"
	}
	return next
}

func (c *console) logout(w http.ResponseWriter, r *http.Request, _ *Session) (string, error) {
	return "/login", c.Backend.Logout(w, r)
}
