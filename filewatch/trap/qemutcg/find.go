package qemutcg

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/plumbline-sec/plumbline/filewatch/trap"
)

// PluginName is the file name the plugin is built as.
const PluginName = "plumbline-trap.so"

// FindControl returns the plugin's control socket of the QEMU that serves
// qmpSocket, read from that process's command line. It is trap.ErrNoPlugin
// when QEMU was started without one.
func FindControl(qmpSocket string) (string, error) {
	pid, err := servedBy(qmpSocket)
	if err != nil {
		return "", err
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return "", fmt.Errorf("read the command line of QEMU, process %d: %w", pid, err)
	}
	path, ok := controlArgument(cmdline)
	if !ok {
		return "", fmt.Errorf("QEMU, process %d: %w", pid, trap.ErrNoPlugin)
	}
	if !filepath.IsAbs(path) {
		dir, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid))
		if err != nil {
			return "", fmt.Errorf("read the directory of QEMU, process %d: %w", pid, err)
		}
		path = filepath.Join(dir, path)
	}
	return path, nil
}

// servedBy is the process that listens on a unix socket, as the kernel noted
// when it began to (SO_PEERCRED, unix(7)). The connection need not be accepted:
// a QMP socket that another client holds works too.
func servedBy(socket string) (int, error) {
	c, err := net.Dial("unix", socket)
	if err != nil {
		return 0, fmt.Errorf("connect to the QMP socket: %w", err)
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var credErr error
	err = raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, credErr); err != nil {
		return 0, fmt.Errorf("read who serves %s: %w", socket, err)
	}
	return int(cred.Pid), nil
}

// controlArgument finds control=PATH in QEMU's -plugin arguments. QEMU writes a
// comma within a value as two (qemu-option.c).
func controlArgument(cmdline []byte) (string, bool) {
	args := bytes.Split(cmdline, []byte{0})
	for i := 0; i+1 < len(args); i++ {
		if a := string(args[i]); a != "-plugin" && a != "--plugin" {
			continue
		}
		for _, option := range splitOptions(string(args[i+1])) {
			if path, ok := strings.CutPrefix(option, "control="); ok && path != "" {
				return path, true
			}
		}
	}
	return "", false
}

func splitOptions(s string) []string {
	var options []string
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] != ',':
			b.WriteByte(s[i])
		case i+1 < len(s) && s[i+1] == ',':
			b.WriteByte(',')
			i++
		default:
			options = append(options, b.String())
			b.Reset()
		}
	}
	return append(options, b.String())
}
