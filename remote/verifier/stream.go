package verifier

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/plumbline-sec/plumbline/remote"
)

// keepAlive is how often an idle stream says that it is alive.
const keepAlive = 15 * time.Second

// streamed are the collections whose changes are told, by the name of the
// event.
var streamed = map[string]string{
	inMachines: "machine", inScans: "scan", inEvents: "event", inReviews: "review", inMoments: "moment", inAppraisals: "appraisal",
}

// getStream is GET /v1/stream: server-sent events (HTML standard, 9.2). Each
// names a kind and carries {"id","machine"}; what changed is asked for through
// the rest of the API.
func (v *Verifier) getStream(w http.ResponseWriter, r *http.Request) {
	if _, err := v.personOf(r); err != nil {
		v.answerError(w, r, err)
		return
	}
	control := http.NewResponseController(w)
	changed, done := v.hub.listen()
	defer done()
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	fmt.Fprint(w, ": plumbline\nretry: 1000\n\n")
	alive := time.NewTicker(keepAlive)
	defer alive.Stop()
	for {
		control.SetWriteDeadline(time.Now().Add(2 * keepAlive))
		if control.Flush() != nil {
			return
		}
		select {
		case <-r.Context().Done():
			return
		case <-alive.C:
			fmt.Fprint(w, ": alive\n\n")
		case c, open := <-changed:
			if !open {
				return // the browser comes again
			}
			kind := streamed[c.Collection]
			if kind == "" {
				continue
			}
			data, err := json.Marshal(remote.Notice{ID: c.Key, Machine: c.Machine})
			if err != nil {
				return
			}
			fmt.Fprintf(w, "event: %s\ndata: %s\n\n", kind, data)
		}
	}
}
