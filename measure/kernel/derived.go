package kernel

import "sync"

// derived keeps what other packages make of a profile: it is shared by all
// copies of the profile, so it lives as long as a [Cache] keeps that.
type derived struct {
	mu sync.Mutex
	by map[any]any
}

// Derived returns what build makes, which is called once for each key and
// kernel. What it returns must be right whatever the kernel's memory is by then, and
// safe for concurrent use. Keys are of a type of the caller's own. A profile
// that was not read from memory keeps nothing.
func (p *Profile) Derived(key any, build func() any) any {
	if p.derived == nil {
		return build()
	}
	p.derived.mu.Lock()
	defer p.derived.mu.Unlock()
	if v, ok := p.derived.by[key]; ok {
		return v
	}
	v := build()
	p.derived.by[key] = v
	return v
}
