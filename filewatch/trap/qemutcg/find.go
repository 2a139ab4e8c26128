package qemutcg

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/plumbline-sec/plumbline/filewatch/trap"
	"github.com/plumbline-sec/plumbline/internal/qmp"
)

// PluginName is the file name the plugin is built as.
const PluginName = "plumbline-trap.so"

// FindControl returns the plugin's control socket of the QEMU that serves
// qmpSocket, read from that process's command line. It is trap.ErrNoPlugin
// when QEMU was started without one.
func FindControl(ctx context.Context, qmpSocket string) (string, error) {
	pid, err := qmp.PeerPID(ctx, qmpSocket)
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
