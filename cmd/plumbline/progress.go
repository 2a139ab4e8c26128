package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/term"
)

// progress draws one line about work that takes longer than two seconds.
type progress struct {
	drawing        bool
	objects, bytes atomic.Int64
	done           chan struct{}
	drawn          sync.WaitGroup
}

// newProgress draws to w: "auto" only when it is a terminal, "always", "never".
func newProgress(w io.Writer, mode string) (*progress, error) {
	p := &progress{done: make(chan struct{})}
	delay := 2 * time.Second
	switch mode {
	case "auto":
		f, ok := w.(*os.File)
		if !ok || !term.IsTerminal(int(f.Fd())) {
			return p, nil
		}
	case "always":
		delay = 0
	case "never":
		return p, nil
	default:
		return nil, fail(exitArgument, fmt.Errorf("unknown --progress %q: want auto, always or never", mode))
	}
	p.drawing = true
	p.drawn.Go(func() { p.draw(w, delay) })
	return p, nil
}

// add counts one object; safe for concurrent use.
func (p *progress) add(bytes int64) {
	p.objects.Add(1)
	p.bytes.Add(bytes)
}

func (p *progress) stop() {
	close(p.done)
	p.drawn.Wait()
}

func (p *progress) draw(w io.Writer, delay time.Duration) {
	select {
	case <-p.done:
		return
	case <-time.After(delay):
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	defer fmt.Fprint(w, "\r\x1b[K")
	for {
		fmt.Fprintf(w, "\r%d objects, %d MiB read\x1b[K", p.objects.Load(), p.bytes.Load()>>20)
		select {
		case <-p.done:
			return
		case <-tick.C:
		}
	}
}
