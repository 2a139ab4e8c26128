package lab

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
)

var versionLine = regexp.MustCompile(`^QEMU emulator version (\d+)\.(\d+)`)

// qemuVersion asks the QEMU that will be run what it is.
func qemuVersion(ctx context.Context) (major, minor int, err error) {
	text, err := output(ctx, "", "qemu-system-x86_64", "-version")
	if err != nil {
		return 0, 0, err
	}
	m := versionLine.FindStringSubmatch(text)
	if m == nil {
		return 0, 0, fmt.Errorf("qemu-system-x86_64 -version says %q", text)
	}
	major, _ = strconv.Atoi(m[1])
	minor, _ = strconv.Atoi(m[2])
	return major, minor, nil
}

// reconnectOption has a chardev that is a client try again every 2 s: QEMU takes
// milliseconds since 9.2, and nothing else in 11.1.
func reconnectOption(major, minor int) string {
	if major > 9 || major == 9 && minor >= 2 {
		return "reconnect-ms=2000"
	}
	return "reconnect=2"
}
