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
	without := load(t, bare)
	if err := bare.Close(); err != nil {
		t.Fatal(err)
	}
	m := lab.StartT(t, lab.Options{Files: files, Plugin: plugin(t)})
	idle := load(t, m)
	w := watch(t, m, nil)
	active := load(t, m)
	st := status(t, m, func() {
		begin := time.Now()
		m.ShellT(t, "mkdir -p /b; /opt/plumbline/fileops burst /b 5000")
		fmt.Printf("bench trap.operations %.0f ops/s\n", 10000/time.Since(begin).Seconds())
	})
	w.stop()
	fmt.Printf("%d rounds of load took QEMU %v without the plugin, %v idle, %v watched\n", rounds, without, idle, active)
	fmt.Printf("%d stops for 10000 operations, %d lost, %d unsettled, %d events\n", st.Stops, st.Lost, st.Unsettled, len(w.events))
	fmt.Printf("bench trap.stop %.0f ns\n", float64(st.StopNanos)/float64(max(st.Stops, 1)))
	fmt.Printf("bench trap.idle %.3f x vs no-plugin\n", idle.Seconds()/without.Seconds())
	fmt.Printf("bench trap.active %.3f x vs idle\n", active.Seconds()/idle.Seconds())
}

// load is how much processor time the load takes of QEMU.
func load(t *testing.T, m *lab.Machine) time.Duration {
	t.Helper()
	var all []time.Duration
	m.ShellT(t, "mkdir -p /load; /opt/plumbline/fileops work /load 50")
	for range repeats {
		begin := cpuTime(t, m.PID)
		m.ShellT(t, fmt.Sprintf("/opt/plumbline/fileops work /load %d", rounds))
		all = append(all, cpuTime(t, m.PID)-begin)
	}
	slices.Sort(all)
	return all[len(all)/2]
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
	after.StopNanos -= before.StopNanos
	return after
}
