package main

import (
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// progressFlag adds --progress to a command that may take longer than two seconds.
func progressFlag(cmd *cobra.Command, mode *string) {
	f := cmd.Flags()
	f.StringVar(mode, "progress", "auto", "show progress on standard error `WHEN`: auto (on a terminal, after two seconds), always or never")
	f.Lookup("progress").NoOptDefVal = "always"
	cmd.RegisterFlagCompletionFunc("progress", cobra.FixedCompletions([]string{"auto", "always", "never"}, cobra.ShellCompDirectiveNoFileComp))
}

// progress draws one line about work that takes longer than two seconds.
type progress struct {
	drawing bool
	words   func() string
	done    chan struct{}
	drawn   sync.WaitGroup
}

// newProgress draws what words says to w: "auto" only when it is a terminal,
// "always", "never".
func newProgress(w io.Writer, mode string, words func() string) (*progress, error) {
	p := &progress{done: make(chan struct{}), words: words}
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

func (p *progress) stop() {
	close(p.done)
	p.drawn.Wait()
}

func (p *progress) draw(w io.Writer, delay time.Duration) {
	if delay > 0 {
		select {
		case <-p.done:
			return
		case <-time.After(delay):
		}
	}
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	defer fmt.Fprint(w, "\r\x1b[K")
	for {
		fmt.Fprintf(w, "\r%s\x1b[K", p.words())
		select {
		case <-p.done:
			return
		case <-tick.C:
		}
	}
}

// reading counts what was read of a source. Its methods are safe for concurrent use.
type reading struct{ objects, bytes atomic.Int64 }

// add counts one object.
func (r *reading) add(bytes int64) {
	r.objects.Add(1)
	r.bytes.Add(bytes)
}

func (r *reading) words() string {
	return fmt.Sprintf("%d objects, %d MiB read", r.objects.Load(), r.bytes.Load()>>20)
}

// since says for how long something goes on of which nobody knows how far it is.
func since(what string) func() string {
	start := time.Now()
	return func() string { return fmt.Sprintf("%s, %d s", what, int(time.Since(start).Seconds())) }
}
