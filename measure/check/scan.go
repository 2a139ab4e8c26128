package check

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/kernel/xen"
	"github.com/plumbline-sec/plumbline/measure/mem"
	"github.com/plumbline-sec/plumbline/measure/paging"
)

// Options of a [Scan]. The zero value scans everything, with nothing cached.
type Options struct {
	// Target is copied into the observations.
	Target measure.Target
	// Nonce is copied into the observations.
	Nonce []byte
	// Checks names the checks to run; all of them if empty.
	Checks []string
	// Profiles keeps kernel profiles between scans; nil keeps none.
	Profiles *kernel.Cache
}

// Result of a [Scan].
type Result struct {
	Observations *measure.Observations
	// Pages holds the bytes of every page whose digest is in the observations.
	Pages Pages
}

// collector is what the collecting half of a check works with.
type collector struct {
	ctx       context.Context
	machine   Machine
	registers []mem.Registers // read just before the pause; of CPUs that have started
	absent    absentCPUs      // the other CPUs
	watch     cpuWatch
	profile   *kernel.Profile // nil of a Xen
	xen       *xen.Profile    // nil of a Linux
	kind      string          // of target, as [measure.Kernel] has it
	root      *paging.Space   // of the kernel
	space     *paging.Space   // the same, translations of the pause remembered
	pages     Pages

	modules    []kernel.LoadedModule // what could be read, also if modulesErr
	modulesErr error
	dormant    map[mem.Virt]bool     // those of modules that are (settle.go), by their struct module
	later      []kernel.LoadedModule // on the list later in the scan

	symbols map[mem.Virt]symbolsOrError // of modules, by their struct module

	symbolBytes int // that these take

	kvm         []kvmRange        // planned by kvm.ops
	patience    time.Duration     // left for waiting until code has an account
	forLocks    *patience         // for waiting until nobody has some locks
	systemCalls []mem.SystemCalls // read by the plan of linux.msrs
	callsApart  absentCPUs        // by it: CPUs whose registers of those are not the target's own

	xenSystemCalls []xenMSRs // read by the plan of xen.msrs

	pauses []time.Duration // each time the target stood still
	still  bool            // the target never runs

	rests   *sync.RWMutex // held for writing at the pause: see breathe
	working bool          // for a bulk, with rests held for reading

	snapshots   []*snapshot
	wantedBytes uint64
}

// Scan measures m. It returns an error only when nothing at all could be
// observed, such as a target that cannot be reached or a context that ended;
// whatever else fails is a check that was not measured.
//
// The target runs while the profile is made and while bulk is read. It stands
// still while the small tables that checks want are read and, where the source
// has to stop it for that, while it shows the registers of system calls.
func Scan(ctx context.Context, m Machine, opts *Options) (*Result, error) {
	if opts == nil {
		opts = &Options{}
	}
	if _, err := selected(opts.Checks, ""); err != nil {
		return nil, err
	}
	began := time.Now()
	result, c, err := scanOnce(ctx, m, opts, nil)
	if err == nil && time.Since(began)-c.forLocks.spent() < scanAgainWithin && c.outrun() {
		result, _, err = scanOnce(ctx, m, opts, c)
	}
	if err != nil {
		return nil, err
	}
	result.Observations.ElapsedNS = time.Since(began).Nanoseconds()
	return result, nil
}

// scanOnce measures m, for which this scan may have paused it, and waited, before.
func scanOnce(ctx context.Context, m Machine, opts *Options, before *collector) (*Result, *collector, error) {
	c := &collector{ctx: ctx, machine: m, pages: make(Pages), symbols: make(map[mem.Virt]symbolsOrError), rests: new(sync.RWMutex), forLocks: &patience{left: lockPatience}}
	if before != nil {
		c.pauses, c.forLocks = before.pauses, before.forLocks
	}
	if s, ok := m.(still); ok {
		c.still = s.Still()
	}
	obs := &measure.Observations{
		Version: measure.Version,
		Target:  opts.Target,
		Nonce:   opts.Nonce,
		TakenAt: time.Now().UTC(),
	}
	profileErr := c.profileOf(ctx, m, opts.Profiles)
	obs.Kernel.Kind = c.kind
	checks, err := selected(withModules(opts.Checks), c.kind)
	if err != nil {
		return nil, nil, err
	}
	obs.Items = make([]measure.Observation, len(checks))
	if err := profileErr; err != nil {
		for i, check := range checks {
			obs.Items[i] = notMeasured(check, fmt.Errorf("no profile of the kernel: %w", err))
		}
	} else if c.profile != nil && c.profile.Booting(c.registers) {
		obs.Kernel = c.profile.Facts()
		obs.Kernel.CPUs = len(c.registers)
		for i, check := range checks {
			obs.Items[i] = notMeasured(check, errBooting)
		}
	} else if err := c.scan(m, checks, obs); err != nil {
		return nil, nil, err
	}
	if ctx.Err() != nil {
		return nil, nil, ctx.Err()
	}
	return &Result{Observations: obs, Pages: c.pages}, c, nil
}

// scan plans, pauses, and collects.
func (c *collector) scan(m Machine, checks []check, obs *measure.Observations) error {
	if c.xen != nil {
		obs.Kernel = c.xen.Facts()
	} else {
		obs.Kernel = c.profile.Facts()
		c.root = c.profile.Space
	}
	obs.Kernel.CPUs = len(c.registers) + len(c.absent)
	c.space = c.root.Cached()
	if c.xen == nil {
		c.patience = codePatience
		c.listModules()
		c.leaveOutGuests()
		c.leaveOut()
	}
	for i, check := range checks {
		if check.kind != c.kind {
			obs.Items[i] = notMeasured(check, errOtherKind)
		}
	}
	bulk := c.startBulk(checks, obs)
	by, _ := m.(stopsByItself)
	if by != nil {
		by.AtStops(c.rest)
	}
	err := c.scanPaused(m, checks, obs)
	if by != nil {
		by.AtStops(nil)
	}
	if err == nil {
		bulk.work(c.twin())
	}
	c.addPages(bulk.wait())
	return err
}

// scanPaused runs the checks that are not bulk.
func (c *collector) scanPaused(m Machine, checks []check, obs *measure.Observations) error {
	for i, check := range checks {
		if check.plan == nil || check.bulk > 0 || check.kind != c.kind {
			continue
		}
		if err := guard(func() error { return check.plan(c) }); err != nil {
			obs.Items[i] = notMeasured(check, err)
		}
	}
	pause, err := c.atPause(m)
	if err != nil {
		return err
	}
	c.stopped(pause)
	if err := c.takeKVMAgain(m); err != nil {
		return err
	}
	for _, p := range c.pauses {
		obs.PauseNS = max(obs.PauseNS, p.Nanoseconds())
		obs.TotalPauseNS += p.Nanoseconds()
	}
	for i, check := range checks {
		if check.bulk == 0 && obs.Items[i].Check == "" && c.ctx.Err() == nil {
			obs.Items[i] = c.observe(check)
		}
	}
	return nil
}

// stopped counts a pause.
func (c *collector) stopped(d time.Duration) { c.pauses = append(c.pauses, d) }

// judgedBy are the checks whose facts others need: where static calls and probes
// go, whose instructions slots hold copies of, what code BPF has.
var judgedBy = map[string][]string{
	textName:       {dynamicName},
	moduleTextName: {textName, dynamicName},
	dynamicName:    {textName, moduleTextName},
	pointersName:   {textName, dynamicName},

	modulePointersName: {textName, dynamicName},
}

// withModules adds to the checks asked for what others judge by.
func withModules(names []string) []string {
	if len(names) == 0 {
		return nil
	}
	if !slices.ContainsFunc(linuxChecks(), func(c check) bool { return slices.Contains(names, c.name) }) {
		return names
	}
	needed := append([]string{modulesName}, names...)
	for name, by := range judgedBy {
		if slices.Contains(names, name) {
			needed = append(needed, by...)
		}
	}
	return needed
}

// selected returns the checks of these names, for none all that are for a kind of
// target.
func selected(names []string, kind string) ([]check, error) {
	all := table()
	if len(names) == 0 {
		return slices.DeleteFunc(all, func(c check) bool { return c.kind != kind }), nil
	}
	for _, name := range names {
		if !slices.Contains(Names(), name) {
			return nil, fmt.Errorf("unknown check %q", name)
		}
	}
	return slices.DeleteFunc(all, func(c check) bool { return !slices.Contains(names, c.name) }), nil
}

// profileAttempts is how often a profile is made without stopping the target.
const profileAttempts = 3

// profileOf makes the profile while the target runs: what it reads is constant
// from boot on. But the registers of a running CPU may be from two moments, and
// the process whose page tables they name may end while those are walked. So a
// kernel that is not found, or not understood, is sought again with new
// registers, the last time with those of a pause.
func (c *collector) profileOf(ctx context.Context, m Machine, cache *kernel.Cache) error {
	profile := func() (err error) {
		if xen.Runs(m.Memory(), c.registers) {
			c.kind = measure.Xen
			return c.profileXen()
		}
		c.profile, err = cache.Profile(m.Memory(), c.registers)
		return err
	}
	var err error
	for range profileAttempts {
		if err = c.seek(); err != nil && !elusive(err) {
			return err
		}
		if err == nil {
			err = guard(profile)
		}
		if !elusive(err) || len(c.registers)+len(c.absent) == 0 || ctx.Err() != nil {
			return err
		}
		if c.still && err != nil {
			return c.profileOfAllInGuests(cache, err)
		}
	}
	resume, pauseErr := m.Pause(ctx)
	if pauseErr != nil {
		return errors.Join(err, pauseErr)
	}
	err = c.seek()
	if err := errors.Join(err, resume()); err != nil {
		return err
	}
	return guard(profile)
}

// elusive says that other registers may show what these did not.
func elusive(err error) bool {
	return errors.Is(err, kernel.ErrNoKernel) || errors.Is(err, kernel.ErrNoSymbols) ||
		errors.Is(err, kernel.ErrNoTypes) || errors.Is(err, xen.ErrNotXen) || errors.Is(err, errAllUnread)
}

// atPause stops the target for as long as it takes to read what the checks
// wanted, and returns how long that was. Registers were read just before: those
// that checks look at stay as they are, and reading them takes longer than all
// else here.
func (c *collector) atPause(m Machine) (pause time.Duration, err error) {
	defer c.rest()()
	began := time.Now()
	resume, err := m.Pause(c.ctx)
	if err != nil {
		return 0, fmt.Errorf("pause: %w", err)
	}
	defer func() {
		resumeErr := resume()
		pause = time.Since(began)
		if clock, ok := m.(pauseClock); ok {
			pause = clock.PausedFor()
		}
		if resumeErr != nil {
			err = fmt.Errorf("resume: %w", resumeErr)
		}
	}()
	c.space = c.root.Cached()
	return 0, guard(func() error { c.take(); return nil })
}

// observe runs one collecting half.
func (c *collector) observe(ch check) measure.Observation {
	var observation measure.Observation
	err := guard(func() error {
		data, coverage, err := ch.collect(c)
		if err != nil {
			return err
		}
		raw, err := json.Marshal(data)
		observation = measure.Observation{Check: ch.name, Coverage: coverage, Data: raw}
		return err
	})
	if err != nil {
		return notMeasured(ch, err)
	}
	return observation
}

// errBooting: until then the kernel's own protections are not all in place.
var errBooting = errors.New("the kernel is booting: its first process has not run a program yet")

func notMeasured(ch check, err error) measure.Observation {
	return measure.Observation{Check: ch.name, NotMeasured: err.Error()}
}

// guard turns a panic into an error. Targets are hostile: a panic is a bug, but
// must neither take the scan down nor leave the target paused.
func guard(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("internal error: %v", r)
		}
	}()
	return f()
}
