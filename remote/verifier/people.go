package verifier

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/crypto/argon2"

	"github.com/plumbline-sec/plumbline/internal/durable"
	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
)

// Names of the files in the state directory that concern people.
const (
	passwordHashFile = "password.argon2id" // of the user "admin"
	passwordFile     = "password"          // first password in clear; remove it once it is kept elsewhere
	tokenFile        = "token"             // bearer token of the command line
)

// User is the one account that people log in to.
const User = "admin"

const (
	sessionCookie = "__Host-plumbline" // the prefix binds it to this host, Secure and Path=/ (RFC 6265bis, 4.1.3.2)
	sessionLife   = 12 * time.Hour
	maxLoginBytes = 16 << 10
)

// Argon2id parameters: the second recommended option of RFC 9106, 4, with one
// lane, since a verifier may have one core.
const (
	argonTime    = 3
	argonMemory  = 64 << 10 // KiB
	argonThreads = 1
)

// people knows who may ask.
type people struct {
	hash       string
	token      [sha256.Size]byte // SHA-256 of the bearer token
	logins     *limiter
	enrolments *limiter
	hashing    chan struct{} // one password is hashed at a time: each takes 64 MiB
	firstTime  string        // the password, when it was made just now
}

// openPeople reads the password's hash and the token, or makes them.
func openPeople(dir string) (*people, error) {
	p := &people{logins: newLimiter(5, time.Minute), enrolments: newLimiter(60, time.Minute), hashing: make(chan struct{}, 1)}
	hash, err := os.ReadFile(filepath.Join(dir, passwordHashFile))
	if errors.Is(err, fs.ErrNotExist) {
		p.firstTime = randomText(15)
		hash = []byte(hashPassword(p.firstTime))
		if err = durable.WriteFile(filepath.Join(dir, passwordFile), []byte(p.firstTime+"\n"), 0o600); err == nil {
			err = durable.WriteFile(filepath.Join(dir, passwordHashFile), hash, 0o600)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("password: %w", err)
	}
	p.hash = strings.TrimSpace(string(hash))
	token, err := os.ReadFile(filepath.Join(dir, tokenFile))
	if errors.Is(err, fs.ErrNotExist) {
		token = []byte(randomText(32) + "\n")
		err = durable.WriteFile(filepath.Join(dir, tokenFile), token, 0o600)
	}
	if err != nil {
		return nil, fmt.Errorf("token: %w", err)
	}
	text := strings.TrimSpace(string(token))
	if len(text) < 20 {
		return nil, fmt.Errorf("token: %s holds no token", filepath.Join(dir, tokenFile))
	}
	p.token = sha256.Sum256([]byte(text))
	return p, nil
}

// randomText is n random bytes as text that survives copying.
func randomText(n int) string {
	b := make([]byte, n)
	rand.Read(b) // never fails: it ends the process instead
	return base64.RawURLEncoding.EncodeToString(b)
}

// hashPassword is the PHC string of password under Argon2id.
func hashPassword(password string) string {
	salt := make([]byte, 16)
	rand.Read(salt)
	key := argon2.IDKey([]byte(password), salt, argonTime, argonMemory, argonThreads, 32)
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMemory, argonTime, argonThreads,
		base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(key))
}

var errHash = errors.New("not an Argon2id hash")

// checkPassword compares password with a PHC string.
func checkPassword(hash, password string) (bool, error) {
	var version, memory, passes, threads int
	parts := strings.Split(hash, "$")
	if len(parts) != 6 || parts[1] != "argon2id" {
		return false, errHash
	}
	if _, err := fmt.Sscanf(parts[2]+" "+parts[3], "v=%d m=%d,t=%d,p=%d", &version, &memory, &passes, &threads); err != nil || version != argon2.Version {
		return false, errHash
	}
	if memory < 8 || memory > 1<<20 || passes < 1 || passes > 64 || threads < 1 || threads > 64 {
		return false, errHash
	}
	salt, err1 := base64.RawStdEncoding.DecodeString(parts[4])
	want, err2 := base64.RawStdEncoding.DecodeString(parts[5])
	if err1 != nil || err2 != nil || len(want) < 16 || len(want) > 64 {
		return false, errHash
	}
	got := argon2.IDKey([]byte(password), salt, uint32(passes), uint32(memory), uint8(threads), uint32(len(want)))
	return subtle.ConstantTimeCompare(got, want) == 1, nil
}

// session is a login. Its key in the store is the SHA-256 of the cookie, so
// that the store's reader cannot log in with it.
type session struct {
	User    string    `json:"user"`
	Form    string    `json:"form"` // token that forms carry against forgery
	Expires time.Time `json:"expires"`
}

// Session is a person's login as the console sees it.
type Session struct {
	User string
	// Form must come back with every form.
	Form string
	key  string
}

var errLogin = apiError(http.StatusUnauthorized, remote.CodeUnauth, "the password is wrong", "")

// Login checks a password and gives the browser a session.
func (v *Verifier) Login(w http.ResponseWriter, r *http.Request, password string) error {
	if !v.people.logins.allow(clientAddress(r)) {
		v.metrics.refused.WithLabelValues("login").Inc()
		return tooMany()
	}
	select {
	case v.people.hashing <- struct{}{}:
		defer func() { <-v.people.hashing }()
	case <-r.Context().Done():
		return r.Context().Err()
	}
	ok, err := checkPassword(v.people.hash, password)
	if err != nil {
		return err
	}
	if !ok {
		v.metrics.refused.WithLabelValues("login").Inc()
		v.log.Warn("login refused", "from", r.RemoteAddr)
		return errLogin
	}
	v.people.logins.forgive(clientAddress(r))
	cookie := randomText(32)
	s := session{User: User, Form: randomText(32), Expires: v.now().Add(sessionLife)}
	if err := v.store.Apply(r.Context(), nil, create(inSessions, sessionKey(cookie), "", v.now(), s)); err != nil {
		return err
	}
	http.SetCookie(w, &http.Cookie{Name: sessionCookie, Value: cookie, Path: "/", Expires: s.Expires,
		HttpOnly: true, Secure: true, SameSite: http.SameSiteStrictMode})
	v.log.Info("login", "user", User, "from", r.RemoteAddr)
	return nil
}

// Logout ends the browser's session.
func (v *Verifier) Logout(w http.ResponseWriter, r *http.Request) error {
	s, err := v.Session(r)
	if err != nil || s == nil {
		return err
	}
	http.SetCookie(w, &http.Cookie{Name: sessionCookie, Path: "/", MaxAge: -1, HttpOnly: true, Secure: true, SameSite: http.SameSiteStrictMode})
	return v.store.Apply(r.Context(), nil, remove(inSessions, s.key))
}

// Session returns the login of a request, nil if there is none.
func (v *Verifier) Session(r *http.Request) (*Session, error) {
	cookie, err := r.Cookie(sessionCookie)
	if err != nil {
		return nil, nil
	}
	key := sessionKey(cookie.Value)
	s, err := load[session](r.Context(), v.store, inSessions, key)
	if isNotFound(err) || err == nil && v.now().After(s.V.Expires) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &Session{User: s.V.User, Form: s.V.Form, key: key}, nil
}

func sessionKey(cookie string) string {
	sum := sha256.Sum256([]byte(cookie))
	return hex.EncodeToString(sum[:])
}

// personOf says who asks: the holder of the bearer token, or of a session.
// What changes something through a session must also carry its form token, in
// the header X-Form-Token, which another site cannot set.
func (v *Verifier) personOf(r *http.Request) (string, error) {
	if bearer, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		sum := sha256.Sum256([]byte(bearer))
		if subtle.ConstantTimeCompare(sum[:], v.people.token[:]) == 1 {
			return User + " (token)", nil
		}
		v.metrics.refused.WithLabelValues("token").Inc()
		return "", apiError(http.StatusUnauthorized, remote.CodeUnauth, "the token is not known", "the token is in the file \"token\" of the verifier's state directory")
	}
	s, err := v.Session(r)
	if err != nil {
		return "", err
	}
	if s == nil {
		return "", apiError(http.StatusUnauthorized, remote.CodeUnauth, "log in, or show a token", "")
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead &&
		subtle.ConstantTimeCompare([]byte(r.Header.Get("X-Form-Token")), []byte(s.Form)) != 1 {
		return "", apiError(http.StatusForbidden, remote.CodeForbidden, "the form token is missing or wrong", "")
	}
	return s.User, nil
}

// forgetSessions drops logins that have run out.
func (v *Verifier) forgetSessions(ctx context.Context) error {
	docs, err := list[session](ctx, v.store, store.Query{Collection: inSessions})
	if err != nil {
		return err
	}
	for _, d := range docs {
		if v.now().After(d.V.Expires) {
			if err := v.store.Apply(ctx, nil, remove(inSessions, d.Key)); err != nil {
				return err
			}
		}
	}
	return nil
}
