package baseline

import "testing"

func TestLogNames(t *testing.T) {
	for _, c := range []struct {
		name string
		want logName
		is   bool
	}{
		{"/var/log/syslog", logName{"/var/log/", "syslog", "", "", ""}, false},
		{"/var/log/syslog.1", logName{"/var/log/", "syslog", ".1", "", ""}, true},
		{"/var/log/syslog.12.gz", logName{"/var/log/", "syslog", ".12", "", ".gz"}, true},
		{"/var/log/auth.log-20260101.xz", logName{"/var/log/", "auth.log", "-20260101", "", ".xz"}, true},
		{"/var/log/syslog.gz", logName{"/var/log/", "syslog", "", "", ".gz"}, false},
		{"/var/log/syslog.", logName{"/var/log/", "syslog.", "", "", ""}, false},
		{"/var/log/syslog.0", logName{"/var/log/", "syslog", ".0", "", ""}, true},
		{"/var/log/syslog.00.gz", logName{"/var/log/", "syslog.00", "", "", ".gz"}, false},
		{"/var/log/syslog.01", logName{"/var/log/", "syslog.01", "", "", ""}, false},
		{"/var/log/syslog......0", logName{"/var/log/", "syslog.....", ".0", "", ""}, true}, // of another log
		{"/var/log/syslog-_-.5", logName{"/var/log/", "syslog-_-", ".5", "", ""}, true},
		{"/var/log/syslog.1-", logName{"/var/log/", "syslog.1-", "", "", ""}, false},
		{"/var/log/syslog-123456", logName{"/var/log/", "syslog-123456", "", "", ""}, false},
		{"/var/log/syslog-20260101.1", logName{"/var/log/", "syslog-20260101", ".1", "", ""}, true},
		{"/var/log/syslog-2026010112", logName{"/var/log/", "syslog", "-2026010112", "", ""}, true},
		{"/var/log/syslog_2026-01-02.gz", logName{"/var/log/", "syslog", "_2026-01-02", "", ".gz"}, true},
		{"/var/log/syslog-20260102-1764160000", logName{"/var/log/", "syslog", "-20260102-1764160000", "", ""}, true},
		{"/var/log/syslog.2026-01-02-12_30_59", logName{"/var/log/", "syslog", ".2026-01-02-12_30_59", "", ""}, true},
		{"/var/log/syslog-1764160000", logName{"/var/log/", "syslog", "-1764160000", "", ""}, true},
		{"/var/log/syslog--20260102", logName{"/var/log/", "syslog-", "-20260102", "", ""}, true},
		{"/var/log/2026", logName{"/var/log/", "2026", "", "", ""}, false},
		{"/var/log/log2", logName{"/var/log/", "log2", "", "", ""}, false},
		{"/var/log/log2.1", logName{"/var/log/", "log2", ".1", "", ""}, true},
		{"/var/log/.1", logName{"/var/log/", "", ".1", "", ""}, false},
		{"/var/log/x.tar.1.zip", logName{"/var/log/", "x.tar.1.zip", "", "", ""}, false},
	} {
		if got := logNameOf(c.name); got != c.want || got.rotation() != c.is {
			t.Errorf("%s: %+v, %v", c.name, got, got.rotation())
		}
	}
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{".1", ".2", true}, {".2", ".1", false}, {".9", ".10", true}, {".10", ".9", false}, {".1", ".1", false}, {".0", ".1", true}, {".0", ".0", false}, {".1", ".0", false},
		{"-20260102", "-20260101", true}, {"-20260101", "-20260102", false}, {"-2026-01-02", "-20260101", true},
		{"-20260102", "-2026010112", false}, {"-20260102", ".1", false}, {".1", "-20260102", false},
	} {
		if got := (logName{suffix: c.a}).newer(logName{suffix: c.b}); got != c.want {
			t.Errorf("%s newer than %s: %v", c.a, c.b, got)
		}
	}
}

// What a name may be besides, where logrotate keeps an extension at the end.
func TestLogNamesWithExtension(t *testing.T) {
	for _, c := range []struct {
		name string
		want logName
	}{
		{"/var/log/app.1.log", logName{"/var/log/", "app", ".1", ".log", ""}},
		{"/var/log/app-20260101.log.gz", logName{"/var/log/", "app", "-20260101", ".log", ".gz"}},
		{"/var/log/app.2026-01-01.txt", logName{"/var/log/", "app", ".2026-01-01", ".txt", ""}},
		{"/var/log/app.log", logName{}},
		{"/var/log/app.1.log.1", logName{}}, // of the log app.1.log
		{"/var/log/app.01.log", logName{}},
		{"/var/log/app.1.2", logName{}},
		{"/var/log/app.1.gz.log", logName{}},
		{"/var/log/.1.log", logName{}},
		{"/var/log/app.1.so~", logName{}},
	} {
		if got := logNamesOf(c.name)[1]; got != c.want {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}
