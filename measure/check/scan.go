package check

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/plumbline-sec/plumbline/measure"
	"github.com/plumbline-sec/plumbline/measure/kernel"
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
	registers []mem.Registers // of the pause
	profile   *kernel.Profile
	space     *paging.Space // of the kernel, translations remembered for the scan
	pages     Pages

	modules    []kernel.LoadedModule // nil if modulesErr
	modulesErr error
}

// Scan measures m. It returns an error only when nothing at all could be
// observed, such as a target that cannot be reached or a context that ended;
// whatever else fails is a check that was not measured.
//
// The target runs while the profile is made and while bulk is read; it stands
// still, once, for the checks that need it.
func Scan(ctx context.Context, m Machine, opts *Options) (*Result, error) {
	if opts == nil {
		opts = &Options{}
	}
	checks, err := selected(opts.Checks)
	if err != nil {
		return nil, err
	}
	began := time.Now()
	c := &collector{ctx: ctx, pages: make(Pages)}
	obs := &measure.Observations{
		Version: measure.Version,
		Target:  opts.Target,
		Nonce:   opts.Nonce,
		TakenAt: began.UTC(),
	}
	profileErr := c.profileOf(ctx, m, opts.Profiles)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	items := make([]measure.Observation, len(checks))
	if profileErr != nil {
		for i, check := range checks {
			items[i] = measure.Observation{Check: check.name, NotMeasured: "no profile of the kernel: " + profileErr.Error()}
		}
	} else {
		obs.Kernel = c.profile.Facts()
		obs.Kernel.CPUs = len(c.registers)
		pause, err := c.whilePaused(ctx, m, checks, items)
		if err != nil {
			return nil, err
		}
		obs.PauseNS = pause.Nanoseconds()
		c.run(checks, items, running)
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	obs.Items = items
	obs.ElapsedNS = time.Since(began).Nanoseconds()
	return &Result{Observations: obs, Pages: c.pages}, nil
}

func selected(names []string) ([]check, error) {
	all := table()
	if len(names) == 0 {
		return all, nil
	}
	for _, name := range names {
		if !slices.Contains(Names(), name) {
			return nil, fmt.Errorf("unknown check %q", name)
		}
	}
	return slices.DeleteFunc(all, func(c check) bool { return !slices.Contains(names, c.name) }), nil
}

// profileOf makes the profile while the target runs: what it reads is constant
// from boot on, except that the tables of a CPU may be switched while they are
// read, which the profile notices. Then it is tried once more, paused.
func (c *collector) profileOf(ctx context.Context, m Machine, cache *kernel.Cache) (err error) {
	defer recoverInto(&err)
	if c.registers, err = m.Registers(ctx); err != nil {
		return err
	}
	if c.profile, err = cache.Profile(m.Memory(), c.registers); err == nil {
		return nil
	}
	resume, pauseErr := m.Pause(ctx)
	if pauseErr != nil {
		return err
	}
	defer func() {
		if resumeErr := resume(); resumeErr != nil && err == nil {
			err = resumeErr
		}
	}()
	if c.registers, err = m.Registers(ctx); err != nil {
		return err
	}
	c.profile, err = cache.Profile(m.Memory(), c.registers)
	return err
}

// whilePaused runs the checks that need the target to stand still and returns
// for how long it did.
func (c *collector) whilePaused(ctx context.Context, m Machine, checks []check, items []measure.Observation) (pause time.Duration, err error) {
	began := time.Now()
	resume, err := m.Pause(ctx)
	if err != nil {
		return 0, fmt.Errorf("pause: %w", err)
	}
	defer func() {
		resumeErr := resume()
		pause = time.Since(began)
		if resumeErr != nil {
			err = fmt.Errorf("resume: %w", resumeErr)
		}
	}()
	if c.registers, err = m.Registers(ctx); err != nil {
		return 0, fmt.Errorf("read registers: %w", err)
	}
	c.space = c.profile.Space.Cached()
	c.modules, c.modulesErr = c.profile.Modules()
	c.run(checks, items, paused)
	return 0, nil
}

// run collects the checks of one phase.
func (c *collector) run(checks []check, items []measure.Observation, when phase) {
	for i, check := range checks {
		if check.when == when && c.ctx.Err() == nil {
			items[i] = c.observe(check)
		}
	}
}

// observe runs one collecting half. The target is hostile: a panic in it is a
// bug, but must neither take the scan down nor leave the target paused.
func (c *collector) observe(ch check) measure.Observation {
	data, coverage, err := func() (data any, coverage measure.Coverage, err error) {
		defer recoverInto(&err)
		return ch.collect(c)
	}()
	if err == nil {
		var raw json.RawMessage
		if raw, err = json.Marshal(data); err == nil {
			return measure.Observation{Check: ch.name, Coverage: coverage, Data: raw}
		}
	}
	return measure.Observation{Check: ch.name, NotMeasured: err.Error()}
}

func recoverInto(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("internal error: %v", r)
	}
}
