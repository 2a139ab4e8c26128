package verifier

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/plumbline-sec/plumbline/measure/check"
	"github.com/plumbline-sec/plumbline/measure/kernel"
	"github.com/plumbline-sec/plumbline/measure/kernel/xen"
	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
)

// references are the reference kernels and modules of every machine, and the
// pages that were judged clean before.
type references struct {
	config *Config

	mu      sync.Mutex
	images  map[string]*openedImage // by path
	modules map[string]check.ModuleSource
	known   map[check.PageKey]time.Time // accepted, and when the store was last told of its use
	memo    check.Memo
}

type openedImage struct {
	once  sync.Once
	image *kernel.Image // nil if the file is Xen's
	xen   *xen.Image    // nil if it is not
	err   error
}

// open reads a reference kernel, which is Xen's file or Linux' by its content.
func (o *openedImage) open(path string) error {
	o.once.Do(func() {
		if o.xen, o.err = xen.OpenImage(path); errors.Is(o.err, xen.ErrNotXen) {
			o.image, o.err = kernel.OpenImage(path, &kernel.ImageOptions{CacheDir: kernel.DefaultCacheDir()})
		}
	})
	return o.err
}

// openReferences checks that every file that the configuration names is there.
// Kernels are unpacked when they are first needed.
func openReferences(c *Config) (*references, error) {
	r := &references{config: c, images: make(map[string]*openedImage), modules: make(map[string]check.ModuleSource),
		known: make(map[check.PageKey]time.Time)}
	for _, h := range c.each() {
		for _, path := range h.Kernels {
			r.images[path] = &openedImage{}
			if _, err := os.Stat(path); err != nil {
				return nil, fmt.Errorf("reference kernel: %w", err)
			}
		}
		for _, dir := range h.Modules {
			if r.modules[dir] != nil {
				continue
			}
			source, err := kernel.OpenModules(dir)
			if err != nil {
				return nil, fmt.Errorf("reference modules: %w", err)
			}
			r.modules[dir] = source
		}
	}
	return r, nil
}

// of gives the references that a machine is judged against.
func (r *references) of(machine string, pages check.PageSource, accepted check.Accepted) *check.References {
	h := r.config.host(machine)
	refs := &check.References{Pages: pages, Accepted: accepted, Memo: &r.memo}
	if len(h.Kernels) > 0 {
		refs.Images, refs.Xen = imagesOf{r, h.Kernels}, imagesOf{r, h.Kernels}
	}
	if len(h.Modules) > 0 {
		refs.Modules = modulesOf{r, h.Modules}
	}
	return refs
}

// imagesOf finds a kernel among those of one machine by its build-id.
type imagesOf struct {
	r     *references
	paths []string
}

// Image implements check.ImageSource.
func (s imagesOf) Image(buildID string) (*kernel.Image, error) {
	found, err := s.find(func(o *openedImage) bool { return o.image != nil && o.image.BuildID == buildID })
	if err != nil {
		return nil, err
	}
	return found.image, nil
}

// Xen implements check.XenSource.
func (s imagesOf) Xen(buildID string) (*xen.Image, error) {
	found, err := s.find(func(o *openedImage) bool { return o.xen != nil && o.xen.BuildID == buildID })
	if err != nil {
		return nil, err
	}
	return found.xen, nil
}

func (s imagesOf) find(is func(*openedImage) bool) (*openedImage, error) {
	var errs []error
	for _, path := range s.paths {
		opened := s.r.images[path]
		switch err := opened.open(path); {
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", path, err))
		case is(opened):
			return opened, nil
		default:
			errs = append(errs, fmt.Errorf("%s: %w", path, kernel.ErrOtherBuild))
		}
	}
	return nil, errors.Join(errs...)
}

// modulesOf finds a module in the trees of one machine.
type modulesOf struct {
	r    *references
	dirs []string
}

// Module implements check.ModuleSource.
func (s modulesOf) Module(name, buildID string) (*kernel.ModuleFile, error) {
	var errs []error
	for _, dir := range s.dirs {
		m, err := s.r.modules[dir].Module(name, buildID)
		if err == nil {
			return m, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// storedPages reads pages that an agent has sent.
type storedPages struct {
	ctx   context.Context
	store store.Store
}

// Page implements check.PageSource.
func (p storedPages) Page(d check.Digest) ([]byte, bool) {
	body, err := p.store.Body(p.ctx, remote.Digest(d))
	return body, err == nil
}

// acceptedPages remembers pages across scans: in memory for speed, in the
// store for other verifiers and the next process.
type acceptedPages struct {
	ctx   context.Context
	store store.Store
	refs  *references
	now   time.Time
	fresh []check.PageKey // to be stored: accepted now, or used again after long
}

// pageUseNoted is how often it is noted that an accepted page is still used.
const pageUseNoted = 24 * time.Hour

func (r *references) acceptedPages(ctx context.Context, s store.Store, now time.Time) *acceptedPages {
	return &acceptedPages{ctx: ctx, store: s, refs: r, now: now}
}

// forgetKnown forgets pages whose use was last noted before a time.
func (r *references) forgetKnown(before time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for k, noted := range r.known {
		if noted.Before(before) {
			delete(r.known, k)
		}
	}
}

func pageName(k check.PageKey) string { return check.Digest(k).String() }

// Accepted implements check.Accepted.
func (a *acceptedPages) Accepted(k check.PageKey) bool {
	a.refs.mu.Lock()
	noted, known := a.refs.known[k]
	a.refs.mu.Unlock()
	if !known {
		d, err := a.store.Get(a.ctx, inPages, pageName(k))
		if err != nil {
			return false
		}
		noted = d.Time
		a.refs.mu.Lock()
		a.refs.known[k] = noted
		a.refs.mu.Unlock()
	}
	if a.now.Sub(noted) > pageUseNoted {
		a.fresh = append(a.fresh, k)
	}
	return true
}

// Accept implements check.Accepted. It takes effect with save.
func (a *acceptedPages) Accept(k check.PageKey) { a.fresh = append(a.fresh, k) }

// save keeps what was accepted, once the verdict that it came from is kept.
func (a *acceptedPages) save(ctx context.Context) error {
	if len(a.fresh) == 0 {
		return nil
	}
	changes := make([]store.Change, 0, len(a.fresh))
	for _, k := range a.fresh {
		changes = append(changes, put(inPages, pageName(k), "", a.now, true))
	}
	if err := a.store.Apply(ctx, nil, changes...); err != nil {
		return err
	}
	a.refs.mu.Lock()
	defer a.refs.mu.Unlock()
	for _, k := range a.fresh {
		a.refs.known[k] = a.now
	}
	return nil
}
