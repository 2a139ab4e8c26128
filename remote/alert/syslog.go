package alert

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/plumbline-sec/plumbline/remote"
)

const (
	syslogTimeout = 5 * time.Second
	// facility 13 is "log audit" (RFC 5424, 6.2.1).
	facility = 13
	// enterprise is the number reserved for documentation (RFC 5612).
	enterprise = "32473"
)

// syslogSeverity maps to RFC 5424, 6.2.1.
var syslogSeverity = map[remote.Severity]int{
	remote.SeverityInfo: 6, remote.SeverityNotice: 5, remote.SeverityWarning: 4, remote.SeverityAlert: 1,
}

func newSyslog(target *url.URL) (func(context.Context, remote.Moment) error, error) {
	network, address := target.Scheme, target.Host
	switch network {
	case "udp", "tcp":
		if _, _, err := net.SplitHostPort(address); err != nil {
			return nil, fmt.Errorf("%w: syslog URL %q: %w", ErrOptions, target, err)
		}
	case "unix":
		network, address = "unixgram", target.Path
	default:
		return nil, fmt.Errorf("%w: syslog URL %q, want udp://, tcp:// or unix://", ErrOptions, target)
	}
	hostname, err := os.Hostname()
	if err != nil {
		hostname = "-"
	}
	return func(ctx context.Context, m remote.Moment) error {
		message := Format(hostname, m)
		if network == "tcp" {
			message = strconv.Itoa(len(message)) + " " + message // octet counting (RFC 6587, 3.4.1)
		}
		dialer := net.Dialer{Timeout: syslogTimeout}
		conn, err := dialer.DialContext(ctx, network, address)
		if err != nil {
			return fmt.Errorf("syslog: %w", err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(syslogTimeout))
		if _, err := conn.Write([]byte(message)); err != nil {
			return fmt.Errorf("syslog: %w", err)
		}
		return nil
	}, nil
}

// Format is m as a message of RFC 5424, with its fields as structured data.
func Format(hostname string, m remote.Moment) string {
	priority := facility*8 + syslogSeverity[m.Severity]
	at := m.Time.UTC().Format("2006-01-02T15:04:05.000000Z")
	return fmt.Sprintf("<%d>1 %s %s plumbline %d %s [plumbline@%s id=\"%s\" machine=\"%s\" kind=\"%s\" ref=\"%s\"] \ufeff%s",
		priority, at, header(hostname), os.Getpid(), header(m.Kind), enterprise,
		parameter(m.ID), parameter(m.Machine), parameter(m.Kind), parameter(m.Ref), oneLine(m.Text))
}

// header is text that a header field may hold: printable ASCII without spaces.
func header(s string) string {
	s = strings.Map(func(r rune) rune {
		if r <= ' ' || r > '~' {
			return -1
		}
		return r
	}, s)
	if s == "" {
		return "-"
	}
	return s[:min(len(s), 32)]
}

// parameter escapes what RFC 5424, 6.3.3 says, and control characters.
func parameter(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, `]`, `\]`).Replace(oneLine(s))
}

// oneLine keeps control characters out: a file name must not begin a message
// of its own.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '\ufffd'
		}
		return r
	}, s)
}
