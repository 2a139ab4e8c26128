//go:build bench

package vm

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch/trap/guest/linux"
	"github.com/plumbline-sec/plumbline/filewatch/trap/qemutcg"
	"github.com/plumbline-sec/plumbline/internal/lab"
)

// rounds of the file-heavy load: five operations each, all in the page cache.
const rounds = 400

// repeats of each measurement; the median counts.
const repeats = 3

// TestBenchTrap measures what the trap costs a guest that does nothing but
// file operations: the worst there is. It counts QEMU's own processor time, so
// that others on the machine do not count.
func TestBenchTrap(t *testing.T) {
	files := fileops(t)
	bare := lab.StartT(t, lab.Options{Files: files})
	warm(t, bare)
	var without []time.Duration
	for range repeats {
		without = append(without, load(t, bare))
	}
	if err := bare.Close(); err != nil {
		t.Fatal(err)
	}
	m := lab.StartT(t, lab.Options{Files: files, Plugin: plugin(t)})
	warm(t, m)
	var idle, active []time.Duration
	for range repeats {
		idle = append(idle, load(t, m))
		w := watch(t, m, nil)
		active = append(active, load(t, m))
		w.stop()
	}
	w := watch(t, m, nil)
	st := status(t, m, func() {
		begin := time.Now()
		m.ShellT(t, "mkdir -p /b; /opt/plumbline/fileops burst /b 5000")
		fmt.Printf("bench trap.operations %.0f ops/s\n", 10000/time.Since(begin).Seconds())
	})
	w.stop()
	fmt.Printf("%d rounds of load took QEMU %v without the plugin, %v idle, %v watched\n", rounds, without, idle, active)
	fmt.Printf("%d stops for 10000 operations, %d lost, %d unsettled, %d events\n", st.Stops, st.Lost, st.Unsettled, len(w.events))
	fmt.Printf("bench trap.stop %d ns\n", st.StopNanos)
	fmt.Printf("bench trap.idle %.3f x vs no-plugin\n", median(idle).Seconds()/median(without).Seconds())
	fmt.Printf("bench trap.active %.3f x vs idle\n", median(active).Seconds()/median(idle).Seconds())
}

// warm lets a guest and QEMU fill their caches.
func warm(t *testing.T, m *lab.Machine) {
	t.Helper()
	m.ShellT(t, "mkdir -p /load")
	for range 2 {
		load(t, m)
	}
}

// load is how much processor time the load takes of QEMU.
func load(t *testing.T, m *lab.Machine) time.Duration {
	t.Helper()
	begin := cpuTime(t, m.PID)
	m.ShellT(t, fmt.Sprintf("/opt/plumbline/fileops work /load %d", rounds))
	return cpuTime(t, m.PID) - begin
}

func median(all []time.Duration) time.Duration {
	return slices.Sorted(slices.Values(all))[len(all)/2]
}

// cpuTime is the processor time of a process, user and system: fields 14 and
// 15 of /proc/PID/stat (proc(5)), in hundredths of a second on Linux.
func cpuTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	var ticks int
	for _, f := range fields[11:13] {
		n, err := strconv.Atoi(f)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// status runs do with a second client bound and gives the plugin's counters.
func status(t *testing.T, m *lab.Machine, do func()) qemutcg.Status {
	t.Helper()
	w := &Watcher{QMP: m.QMP, Profiles: &profiles}
	s := w.newSettlement(nil, nil)
	layout, err := w.layout(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := qemutcg.Open(t.Context(), m.QMP)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.Bind(t.Context(), layout, linux.Options{}, nil); err != nil {
		t.Fatal(err)
	}
	before, err := conn.Status()
	if err != nil {
		t.Fatal(err)
	}
	do()
	after, err := conn.Status()
	if err != nil {
		t.Fatal(err)
	}
	after.Stops -= before.Stops
	return after
}
