package verifier

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"

	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
)

// apiError makes an answer of status 400 or more.
func apiError(status int, code, message, hint string) *remote.Error {
	return &remote.Error{Status: status, Code: code, Message: message, Hint: hint}
}

func badRequest(err error) *remote.Error {
	return apiError(http.StatusBadRequest, remote.CodeBadRequest, err.Error(), "")
}

func notFound(what string) *remote.Error {
	return apiError(http.StatusNotFound, remote.CodeNotFound, what+" is not known", "")
}

// api turns a function into a handler: its value becomes JSON with status 200
// (204 for nil), its error an ErrorReply. Whatever is not a *remote.Error is
// ours: it is logged and answered as 500 or, when another writer was faster
// again and again, as 503.
func (v *Verifier) api(handle func(http.ResponseWriter, *http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		value, err := handle(w, r)
		if err != nil {
			v.answerError(w, r, err)
			return
		}
		if value == nil {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		json.NewEncoder(w).Encode(value)
	}
}

func (v *Verifier) answerError(w http.ResponseWriter, r *http.Request, err error) {
	var known *remote.Error
	switch {
	case errors.As(err, &known):
	case r.Context().Err() != nil:
		known = apiError(http.StatusServiceUnavailable, remote.CodeUnavailable, "the request was given up", "")
	case errors.Is(err, store.ErrConflict):
		known = apiError(http.StatusServiceUnavailable, remote.CodeUnavailable, "busy, try again", "")
	default:
		v.log.Error("request failed", "method", r.Method, "path", r.URL.Path, "error", err)
		known = apiError(http.StatusInternalServerError, remote.CodeInternal, "internal error; the verifier's log has the details", "")
	}
	if known.Status == http.StatusServiceUnavailable || known.Status == http.StatusTooManyRequests {
		w.Header().Set("Retry-After", "5")
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(known.Status)
	json.NewEncoder(w).Encode(remote.ErrorReply{Error: *known})
}

// readJSON reads a request of at most limit bytes. Unknown keys are an error:
// a client that says more than we understand must hear of it.
func readJSON(w http.ResponseWriter, r *http.Request, limit int64, into any) error {
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, limit))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return bodyError(err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return badRequest(errors.New("request has data after the object"))
	}
	return nil
}

func bodyError(err error) error {
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return apiError(http.StatusRequestEntityTooLarge, remote.CodeTooLarge,
			"request is larger than "+strconv.FormatInt(tooLarge.Limit, 10)+" bytes", "")
	}
	return badRequest(errors.New("request is not the expected JSON: " + err.Error()))
}

// intParameter reads a number from the query, bounded to [0, most].
func intParameter(r *http.Request, name string, otherwise, most int) (int, error) {
	text := r.URL.Query().Get(name)
	if text == "" {
		return otherwise, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, badRequest(errors.New(name + " is not a number"))
	}
	return min(n, most), nil
}
