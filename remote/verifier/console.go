package verifier

import (
	"context"
	"net/http"

	"github.com/plumbline-sec/plumbline/remote/console"
)

// consoleOf is the console's view of a verifier: what the API does, with a
// person's login.
type consoleOf struct{ *Verifier }

var _ console.Backend = consoleOf{}

// Session implements console.Backend.
func (c consoleOf) Session(r *http.Request) (*console.Session, error) {
	s, err := c.Verifier.Session(r)
	if s == nil || err != nil {
		return nil, err
	}
	return &console.Session{User: s.User, Form: s.Form}, nil
}

// Overview implements console.Backend.
func (c consoleOf) Overview(ctx context.Context) (console.Overview, error) {
	reviews, err := c.Reviews(ctx, reviewOpen)
	return console.Overview{Review: len(reviews), Fingerprint: c.fingerprint()}, err
}
