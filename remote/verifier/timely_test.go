package verifier

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"
)

// A stranger who sends a body byte by byte is not waited for; one who sends it
// at once may be answered later than the limit.
func TestSlowBodyIsNotWaitedFor(t *testing.T) {
	read := make(chan error, 1)
	server := httptest.NewServer(timely(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.ReadAll(r.Body)
		if err == nil {
			select {
			case <-r.Context().Done():
				err = r.Context().Err()
			case <-time.After(600 * time.Millisecond):
			}
		}
		read <- err
	}), 500*time.Millisecond, time.Hour))
	defer server.Close()
	send := func(path, body string) net.Conn {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n%s", path, body)
		return conn
	}
	for _, path := range []string{"/v1/enrol", "/login"} {
		conn := send(path, "x")
		if err := <-read; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%s: %v, want a deadline", path, err)
		}
		conn.Close()
		conn = send(path, "12345")
		if err := <-read; err != nil {
			t.Errorf("%s with all of its body: %v", path, err)
		}
		conn.Close()
	}
}
