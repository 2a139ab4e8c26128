package remote

import "fmt"

// Error codes that the verifier answers with.
const (
	CodeBadRequest  = "bad-request"  // 400: the request cannot be understood
	CodeUnauth      = "unauthorized" // 401: no login, token or known client certificate
	CodeForbidden   = "forbidden"    // 403: known, and not allowed
	CodeRetired     = "retired"      // 403: of a machine that was taken out of service
	CodeNotFound    = "not-found"    // 404
	CodeConflict    = "conflict"     // 409: contradicts what is stored
	CodeTooLarge    = "too-large"    // 413: past a limit of this package
	CodeSequence    = "sequence"     // 409: records out of order
	CodeRateLimited = "rate-limited" // 429: try again after Retry-After seconds
	CodeUnavailable = "unavailable"  // 503: try again after Retry-After seconds
	CodeInternal    = "internal"     // 500
)

// Error is the body of every answer with a status of 400 or more, as
// {"error":{…}}, and the error that the clients return for it.
type Error struct {
	Status  int    `json:"-"`
	Code    string `json:"code"`
	Message string `json:"message"`
	Hint    string `json:"hint,omitempty"`
}

func (e *Error) Error() string { return e.Message }

// ErrorReply is the JSON around an Error.
type ErrorReply struct {
	Error Error `json:"error"`
}

// errorf builds the error for an answer that carried no ErrorReply.
func errorf(status int, format string, args ...any) *Error {
	return &Error{Status: status, Code: CodeInternal, Message: fmt.Sprintf(format, args...)}
}
