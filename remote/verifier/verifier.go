package verifier

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/plumbline-sec/plumbline/attest"
	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/internal/bin"
	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/check"
	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/alert"
	"github.com/plumbline-sec/plumbline/remote/store"
)

// Trigger carries a nonce to a machine's BMC and so fires a scan. It returns
// once the BMC has taken the nonce; the same nonce may be carried again.
type Trigger func(ctx context.Context, b BMC, password string, nonce remote.Nonce) error

// Options of a Verifier.
type Options struct {
	Config  *Config
	Store   store.Store
	State   string  // directory of keys and secrets, mode 0700
	Trigger Trigger // nil: no machine can be scanned on demand
	Log     *slog.Logger
}

// Verifier is one verifier process.
type Verifier struct {
	config    *Config
	store     store.Store
	state     string
	trigger   Trigger
	log       *slog.Logger
	now       func() time.Time
	firstScan time.Duration // firstScanWithin
	// rotationPause is leastRotationPause.
	rotationPause time.Duration
	judge         func(*measure.Observations, *check.References) (*measure.Report, error)
	authority     *authority
	people        *people
	policies      map[string]*attest.Policy   // by machine
	rules         map[string]*filewatch.Rules // by machine, where configured
	packages      map[string]*heldPackages    // by machine, where configured
	ekRoots       *x509.CertPool
	ekBetween     *x509.CertPool
	refs          *references
	alerts        *alert.Sinks // nil: nobody is told
	hub           *hub
	metrics       *metrics
	signer        *baselineKey

	fast, slow poke // wake the workers
	tries      tries
	firing     firing
	bulk       bulk
	// turnover is held by who takes a name from a machine, and shared by who takes in
	// records of it, so that none is taken in after that on its certificate of before, and
	// by who asks a person about the name or has its machine scanned: what they write is of
	// the machine that they looked at.
	turnover   sync.RWMutex
	background sync.WaitGroup
	life       context.Context // of what goes on in the background; ended by work
	end        context.CancelFunc
}

// New opens the keys in opts.State, makes what is missing, and reads every
// file that the configuration names. Errors of the configuration wrap
// ErrConfig.
func New(opts Options) (*Verifier, error) {
	v := &Verifier{
		config: opts.Config, store: opts.Store, state: opts.State, trigger: opts.Trigger, log: opts.Log,
		now: time.Now, firstScan: firstScanWithin, rotationPause: leastRotationPause, judge: check.Judge, hub: newHub(), fast: newPoke(), slow: newPoke(),
	}
	if v.log == nil {
		v.log = slog.New(slog.DiscardHandler)
	}
	var err error
	if v.authority, err = openAuthority(opts.State); err != nil {
		return nil, err
	}
	if v.people, err = openPeople(opts.State); err != nil {
		return nil, err
	}
	if v.signer, err = openBaselineKey(opts.State); err != nil {
		return nil, err
	}
	if err := v.readReferences(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if v.alerts, err = openSinks(opts.Config.Alerts); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	v.metrics = newMetrics(v)
	v.life, v.end = context.WithCancel(context.Background())
	return v, nil
}

// CheckConfig reads every file that a configuration names, as New does, and
// changes nothing. Errors wrap ErrConfig.
func CheckConfig(c *Config) error {
	v := &Verifier{config: c}
	err := v.readReferences()
	if err == nil {
		_, err = openSinks(c.Alerts)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return nil
}

// readReferences reads policies, rules, TPM makers' certificates and opens the
// reference kernels.
func (v *Verifier) readReferences() error {
	v.policies, v.rules = make(map[string]*attest.Policy), make(map[string]*filewatch.Rules)
	v.packages = make(map[string]*heldPackages)
	var err error
	if v.ekRoots, err = readPool(v.config.Enrolment.CA); err != nil {
		return err
	}
	if v.ekBetween, err = readPool(v.config.Enrolment.Intermediates); err != nil {
		return err
	}
	for _, h := range v.config.each() {
		if err := v.readHost(h); err != nil {
			return fmt.Errorf("host %q: %w", h.Name, err)
		}
	}
	v.refs, err = openReferences(v.config)
	return err
}

func (v *Verifier) readHost(h Host) error {
	if h.Policy != "" {
		data, err := bin.ReadFile(h.Policy, maxConfig)
		if err != nil {
			return fmt.Errorf("read %w", err)
		}
		if v.policies[h.Name], err = attest.ParsePolicy(data); err != nil {
			return fmt.Errorf("%s: %w", h.Policy, err)
		}
	}
	if h.Rules != "" {
		data, err := bin.ReadFile(h.Rules, maxConfig)
		if err != nil {
			return fmt.Errorf("read %w", err)
		}
		if v.rules[h.Name], err = filewatch.ParseRules(data); err != nil {
			return fmt.Errorf("%s: %w", h.Rules, err)
		}
	}
	if len(h.Packages) == 0 && h.Diversions != "" {
		return fmt.Errorf("host %s: %w", h.Name, errNoPackages)
	}
	if len(h.Packages) > 0 {
		if err := v.readPackages(h); err != nil {
			return err
		}
	}
	if h.BMC != nil {
		if _, err := h.BMC.password(); err != nil {
			return err
		}
	}
	return nil
}

// policyOf is the attestation policy of a machine, nil if it has none.
func (v *Verifier) policyOf(machine string) *attest.Policy {
	return v.policies[v.config.known(machine)]
}

// rulesOf are the configured file rules of a machine, nil if it has none.
func (v *Verifier) rulesOf(machine string) *filewatch.Rules { return v.rules[v.config.known(machine)] }

func readPool(files []string) (*x509.CertPool, error) {
	pool := x509.NewCertPool()
	for _, file := range files {
		data, err := bin.ReadFile(file, maxConfig)
		if err != nil {
			return nil, fmt.Errorf("read %w", err)
		}
		certs, err := remote.ParseCertificates(data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		for _, c := range certs {
			pool.AddCert(c)
		}
	}
	return pool, nil
}

// work goes on until ctx ends: it judges what is stored, fires what is due and
// tells whom to tell. It owns every goroutine of the verifier.
func (v *Verifier) work(ctx context.Context) {
	for _, work := range []func(context.Context){v.workFast, v.workSlow, v.workPackages, v.schedule, v.tellAlerts} {
		v.background.Go(func() { work(ctx) })
	}
	<-ctx.Done()
	v.end()
	v.hub.close()
	v.background.Wait()
}

// introduce makes every configured machine known, so that the fleet shows what
// is still missing.
func (v *Verifier) introduce(ctx context.Context) error {
	for _, h := range v.config.Hosts {
		if err := v.changeMachine(ctx, h.Name, nil, func(*machine) ([]store.Change, error) { return nil, nil }); err != nil && !errors.Is(err, errRetired) {
			return err
		}
	}
	return v.renewClaims(ctx)
}

// poke wakes one worker; pokes while it works come down to one.
type poke chan struct{}

func newPoke() poke { return make(poke, 1) }

func (p poke) poke() {
	select {
	case p <- struct{}{}:
	default:
	}
}

// newID is a fresh name that sorts by time: 48 bits of milliseconds, then
// random bits (the layout of RFC 9562, UUID version 7, in hexadecimal).
func newID() string {
	var b [16]byte
	rand.Read(b[:]) // never fails: it ends the process instead
	ms := time.Now().UnixMilli()
	for i := range 6 {
		b[i] = byte(ms >> (40 - 8*i))
	}
	return hex.EncodeToString(b[:])
}

func newNonce() remote.Nonce {
	var n remote.Nonce
	rand.Read(n[:]) // never fails: it ends the process instead
	return n
}

// isNotFound reads better than errors.Is at the many places that ask.
func isNotFound(err error) bool { return errors.Is(err, store.ErrNotFound) }
