package lab

import "testing"

func TestReconnectOptionOfVersion(t *testing.T) {
	for _, c := range []struct {
		major, minor int
		want         string
	}{
		{5, 2, "reconnect=2"}, {7, 2, "reconnect=2"}, {9, 1, "reconnect=2"},
		{9, 2, "reconnect-ms=2000"}, {10, 0, "reconnect-ms=2000"}, {11, 1, "reconnect-ms=2000"},
	} {
		if got := reconnectOption(c.major, c.minor); got != c.want {
			t.Errorf("QEMU %d.%d: %q, want %q", c.major, c.minor, got, c.want)
		}
	}
}
