package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch/trap"
	"github.com/plumbline-sec/plumbline/filewatch/trap/qemutcg"
)

// WatchConfig has a target's file operations watched.
type WatchConfig struct {
	Enabled bool        `toml:"enabled"`
	Rules   string      `toml:"rules"`  // rules file; without it every operation is reported
	Source  WatchSource `toml:"source"` // where operations are seen; default trap
	Every   string      `toml:"every"`  // between two looks at the disks, default 1s; not with trap
	// Resets is the socket of another monitor, kept while the disks are watched: resets of
	// the guest are told then. Not with trap, which sees them by itself.
	Resets string `toml:"resets"`
}

// WatchSource says where file operations are seen.
type WatchSource string

// The sources. Trap is the default: a watch that was set up to see each operation, with
// who did it, does not become one that sees less because a machine was started without
// the plugin.
const (
	WatchAuto WatchSource = "auto" // the plugin where QEMU has it, else the disks
	WatchTrap WatchSource = "trap" // QEMU's trap plugin
	WatchDisk WatchSource = "disk" // what the guest writes to its disks
)

// Errors of [WatchConfig], which wrap [ErrConfig] as all do.
var (
	// ErrWatchSource: there is no such source.
	ErrWatchSource = errors.New("no source of file operations")
	// ErrWatchEvery: the time between looks is none, or not within its bounds.
	ErrWatchEvery = errors.New("no time between looks at the disks")
	// ErrEveryWithTrap: the plugin tells of each operation when it happens.
	ErrEveryWithTrap = errors.New("every goes with source disk or auto: the plugin tells of operations when they happen")
	// ErrResetsWithTrap: the plugin sees resets by itself.
	ErrResetsWithTrap = errors.New("resets goes with source disk or auto: the plugin sees resets by itself")
	// ErrSameMonitor: a monitor that is kept is nobody else's.
	ErrSameMonitor = errors.New("resets is the monitor that qmp names: it wants another one, which nobody else uses")
)

// Bounds of WatchConfig.Every, as of the command's.
const (
	minWatchEvery = 10 * time.Millisecond
	maxWatchEvery = time.Hour
)

func (w *WatchConfig) check() error {
	switch w.Source {
	case "", WatchTrap:
		if w.Every != "" {
			return ErrEveryWithTrap
		}
		if w.Resets != "" {
			return ErrResetsWithTrap
		}
	case WatchAuto, WatchDisk:
	default:
		return fmt.Errorf("%w: source %q: want trap, disk or auto", ErrWatchSource, w.Source)
	}
	_, err := w.every()
	return err
}

// every is the time between looks, 0 for the default.
func (w *WatchConfig) every() (time.Duration, error) {
	if w.Every == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(w.Every)
	if err != nil {
		return 0, fmt.Errorf("%w: every: %w", ErrWatchEvery, err)
	}
	if d < minWatchEvery || d > maxWatchEvery {
		return 0, fmt.Errorf("%w: every %s: want %s to %s", ErrWatchEvery, d, minWatchEvery, maxWatchEvery)
	}
	return d, nil
}

// source is where the target's operations are seen from now on, trap or disk.
func (t *target) source(ctx context.Context) WatchSource {
	switch t.config.Watch.Source {
	case "":
		return WatchTrap
	case WatchAuto:
		_, err := qemutcg.FindControl(ctx, t.config.QMP)
		if errors.Is(err, trap.ErrNoPlugin) {
			t.agent.log.Info("QEMU runs without the trap plugin: operations are seen on the disks, when the guest has written them back, without who did them",
				"target", t.config.Name)
			return WatchDisk
		}
		return WatchTrap // what else is wrong the watch will say
	}
	return t.config.Watch.Source
}
