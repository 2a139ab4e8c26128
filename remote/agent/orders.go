package agent

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/plumbline-sec/plumbline/remote"
)

// captureLook is how often commands are asked for while a capture is under way.
const captureLook = time.Second

// maxCaptures is how many captures of one target are begun and not finished: one
// runs, one waits. Further ones stay with the verifier.
const maxCaptures = 2

// orders carries out commands: captures of a target's files, which take minutes
// and which a guest can provoke, in the background, one after the other for each
// target; everything else at once and in order, so that a scan's pages are
// delivered in time whatever else is asked.
//
// What is acknowledged to the verifier may be forgotten there, so only commands
// before the first unfinished one are. One that ends with the agent is open still
// and is carried out by the next.
type orders struct {
	do     func(context.Context, remote.Command) error
	failed func(remote.Command, error)

	captures sync.WaitGroup

	mu    sync.Mutex
	after uint64            // acknowledged
	open  []uint64          // of the last answer, rising
	state map[uint64]bool   // begun, and whether finished
	queue map[string]*queue // of captures, by target
}

// queue is the captures of a target: begun counts those that are not finished.
type queue struct {
	begun int
	turn  sync.Mutex
}

// acknowledged is the number up to which every command has been carried out.
func (o *orders) acknowledged() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, id := range o.open {
		if !o.state[id] {
			break
		}
		o.after = max(o.after, id)
	}
	for id := range o.state {
		if id <= o.after {
			delete(o.state, id)
		}
	}
	return o.after
}

// take carries out what is new in an answer of the verifier and returns how many
// commands that were.
func (o *orders) take(ctx context.Context, commands []remote.Command) int {
	commands = slices.Clone(commands)
	slices.SortFunc(commands, func(a, b remote.Command) int { return cmp.Compare(a.ID, b.ID) })
	open := make([]uint64, len(commands))
	for i, c := range commands {
		open[i] = c.ID
	}
	o.mu.Lock()
	o.open = open
	o.mu.Unlock()
	fresh := 0
	for _, c := range commands {
		background, ok := o.begin(c)
		if !ok {
			continue
		}
		fresh++
		if background == nil {
			o.finish(ctx, c)
			continue
		}
		o.captures.Go(func() {
			background.turn.Lock()
			defer background.turn.Unlock()
			o.finish(ctx, c)
			o.mu.Lock()
			defer o.mu.Unlock()
			background.begun--
		})
	}
	return fresh
}

// begin says whether a command is to be carried out now, and for a capture in
// which queue.
func (o *orders) begin(c remote.Command) (background *queue, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, begun := o.state[c.ID]; begun || c.ID <= o.after {
		return nil, false
	}
	if c.Kind == remote.CommandBaseline || c.Kind == remote.CommandRescan {
		if o.queue == nil {
			o.queue = make(map[string]*queue)
		}
		if background = o.queue[c.Target]; background == nil {
			background = &queue{}
			o.queue[c.Target] = background
		}
		if background.begun == maxCaptures {
			return nil, false
		}
		background.begun++
	}
	if o.state == nil {
		o.state = make(map[uint64]bool)
	}
	o.state[c.ID] = false
	return background, true
}

// finish carries out a command and notes that it is done, unless the agent ends:
// then nothing is said and the command is asked for again.
func (o *orders) finish(ctx context.Context, c remote.Command) {
	if ctx.Err() != nil {
		return
	}
	if err := o.do(ctx, c); err != nil {
		if ctx.Err() != nil {
			return
		}
		o.failed(c, err)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.state[c.ID] = true
}
