package verifier

import (
	"net/http"
	"sync"

	"github.com/plumbline-sec/plumbline/remote"
)

// maxBulk bounds the requests with records or bodies that one agent has under way:
// each may take 64 MiB of memory while it arrives. An agent of ours has two.
const maxBulk = 4

// bulk counts such requests by agent: one that opens many at once, as the owner of
// a guest can have its agent's certificate do, has no others kept waiting.
type bulk struct {
	mu    sync.Mutex
	count map[string]int
}

// beginBulk says which machine a request with bulk stands for, and takes a place for
// it.
func (v *Verifier) beginBulk(r *http.Request) (agent *machine, end func(), err error) {
	if agent, err = v.agentOf(r); err != nil {
		return nil, nil, err
	}
	end, err = v.bulk.begin(agent.Name)
	return agent, end, err
}

// begin takes a place for a request of an agent; end gives it back.
func (b *bulk) begin(agent string) (end func(), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.count[agent] >= maxBulk {
		return nil, apiError(http.StatusServiceUnavailable, remote.CodeUnavailable, "too many requests of this agent are under way", "")
	}
	if b.count == nil {
		b.count = make(map[string]int)
	}
	b.count[agent]++
	return func() { b.finish(agent) }, nil
}

func (b *bulk) finish(agent string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.count[agent]--; b.count[agent] == 0 {
		delete(b.count, agent)
	}
}
