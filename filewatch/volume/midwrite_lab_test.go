//go:build lab

package volume_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/filewatch/volume/volumetest"
	"github.com/plumbline-sec/plumbline/internal/lab"
	"github.com/plumbline-sec/plumbline/internal/qmp"
)

// busyDisk is a file system that the guest writes, made on the host. Logs are
// small, so that they go round many times: near the least that mkfs.xfs 6.13 takes.
type busyDisk struct {
	name  string
	mkfs  []string
	mount string   // options that the copy needs beside the original
	check []string // a checker that no one here wrote; it changes nothing
}

var busyDisks = []busyDisk{
	{"xfs", []string{"mkfs.xfs", "-q", "-l", "size=13m"}, ",nouuid", []string{"xfs_repair", "-n"}},
	{"xfs-small-blocks", []string{"mkfs.xfs", "-q", "-b", "size=1024", "-n", "size=4096", "-m", "rmapbt=1", "-i", "nrext64=1", "-l", "size=6m"}, ",nouuid", []string{"xfs_repair", "-n"}},
	{"xfs-v4", []string{"mkfs.xfs", "-q", "-m", "crc=0", "-b", "size=1024", "-n", "size=4096", "-l", "size=4m"}, ",nouuid", []string{"xfs_repair", "-n"}},
	{"ext4", []string{"mke2fs", "-q", "-t", "ext4", "-b", "1024", "-J", "size=4"}, "", []string{"e2fsck", "-fn"}},
}

const busyDiskSize = 96 << 20

// pictures is how many copies are made of each disk: more for the night, as
// .ci/pictures sets it.
func pictures(t *testing.T) int {
	t.Helper()
	s := os.Getenv("PLUMBLINE_PICTURES")
	if s == "" {
		return 2
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("PLUMBLINE_PICTURES is %q", s)
	}
	return n
}

// makeBusyDisks makes the disks and one more, for copies that the guest recovers.
func makeBusyDisks(t *testing.T) []string {
	t.Helper()
	dir := volumetest.Dir(t)
	var out []string
	for _, d := range busyDisks {
		out = append(out, d.make(t, filepath.Join(dir, d.name)))
	}
	return append(out, emptyDisk(t, filepath.Join(dir, "recovered")))
}

// File systems that several processes of a guest write hard, copied at one moment
// and not quiesced: each copy reads as the guest's kernel shows it after its own
// recovery of that copy, and so does the copy that was recovered.
func picturesRead(t *testing.T, m *lab.Machine, disks []string) {
	dir := volumetest.Dir(t)
	putKernel(t, m, dir)
	m.ShellT(t, `set -e; modprobe xfs
for d in /sys/block/vd*; do ln -s /dev/${d##*/} /run/$(cat $d/serial); done
for n in $(seq 0 `+strconv.Itoa(len(busyDisks)-1)+`); do
  mkdir -p /run/mnt$n; mount -o noatime $(readlink /run/plumbline-disk$n) /run/mnt$n
  for i in 1 2 3; do /run/kernel busy /run/mnt$n >/dev/null 2>&1 </dev/null & echo $! >> /run/busy; done
done`)
	replayed := make([]string, len(busyDisks))
	for round := range pictures(t) {
		// However slow the machine is: there is something to see, and some of it new.
		m.ShellT(t, `kill -CONT $(cat /run/busy)
for mnt in /run/mnt*; do until [ $(find $mnt 2>/dev/null | wc -l) -gt 150 ]; do sleep 1; done; done; sleep 3`)
		copies := picture(t, m, disks[:len(busyDisks)], filepath.Join(dir, "copy"))
		m.ShellT(t, "kill -STOP $(cat /run/busy)") // leaves the processors to what follows
		for i, d := range busyDisks {
			t.Run(fmt.Sprintf("%s-%d", d.name, round), func(t *testing.T) {
				replayed[i] += comparePicture(t, m, d, copies[i], disks[len(busyDisks)])
			})
		}
	}
	m.ShellT(t, "kill -KILL $(cat /run/busy)")
	for i, d := range busyDisks {
		if replayed[i] == "" {
			t.Errorf("%s: no picture had anything to replay", d.name)
		}
	}
}

// comparePicture reads a copy, lets the guest recover it and compares. It gives
// what was replayed here.
func comparePicture(t *testing.T, m *lab.Machine, d busyDisk, copied, recovered string) string {
	v := volumetest.One(t, copied)
	got := volumetest.Lines(t, v)
	copyFile(t, copied, recovered)
	began := strings.TrimSpace(m.ShellT(t, "date -u +%Y-%m-%dT%H:%M:%S.%N"))
	want := recoverInGuest(t, m, d.mount)
	if len(want) < 100 {
		t.Errorf("only %d names: the picture shows little", len(want))
	}
	t.Logf("replayed %q; %d names", v.Replayed, len(want))
	if diff := cmp.Diff(timesBefore(want, got, began), got); diff != "" {
		t.Errorf("copy (-kernel +got):\n%s", diff)
	}
	after := volumetest.One(t, recovered)
	if strings.HasPrefix(d.name, "xfs") && after.Replayed != "" {
		t.Errorf("the recovered copy replays %q", after.Replayed)
	}
	if diff := cmp.Diff(want, volumetest.Lines(t, after)); diff != "" {
		t.Errorf("recovered copy (-kernel +got):\n%s", diff)
	}
	d.checkRecovered(t, recovered)
	return v.Replayed
}

// timesBefore gives a listing the times that another has, for files that were
// modified since a moment: recovery ends the cutting of a file that was in the
// middle of it, and sets its time (fs/ext4/orphan.c, ext4_process_orphan).
func timesBefore(list, other []string, moment string) []string {
	times := make(map[string]string, len(other))
	for _, line := range other {
		if name, fields, ok := splitLine(line); ok {
			times[name] = fields[modified]
		}
	}
	out := slices.Clone(list)
	for i, line := range list {
		name, fields, ok := splitLine(line)
		if before, known := times[name]; ok && known && fields[modified] >= moment {
			fields[modified] = before
			out[i] = name + strings.Join(fields, " ")
		}
	}
	return out
}

// modified is which of the fields of a line behind the name is the time of the
// last modification.
const modified = 6

// splitLine takes a line of a listing apart: the name and, behind a first empty
// one, the fields.
func splitLine(line string) (name string, fields []string, ok bool) {
	name, err := strconv.QuotedPrefix(line)
	if err != nil {
		return "", nil, false
	}
	fields = strings.Split(line[len(name):], " ")
	return name, fields, len(fields) > modified
}

// checkRecovered runs the checker of the family, which must find nothing but what
// the kernel's recovery leaves: an attribute that was being set stays marked as
// INCOMPLETE on XFS, is shown by no one, and goes with the next repair.
func (d *busyDisk) checkRecovered(t *testing.T, recovered string) {
	t.Helper()
	check := exec.CommandContext(t.Context(), d.check[0], append(d.check[1:], recovered)...)
	check.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin", "LC_ALL=C.UTF-8")
	out, err := check.CombinedOutput()
	switch {
	case err == nil:
	case bytes.Contains(out, []byte("is INCOMPLETE")):
		t.Logf("%s: an attribute was being set: %v", d.check[0], err)
	default:
		t.Errorf("%s of the recovered copy: %v\n%s", d.check[0], err, out)
	}
}

// recoverInGuest mounts the last disk in the guest, which recovers it, and lists it.
func recoverInGuest(t *testing.T, m *lab.Machine, options string) []string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	r, err := m.Exec(ctx, "sh", "-c", fmt.Sprintf(`set -e; mkdir -p /run/recovered
mount -o noatime%s $(readlink /run/plumbline-disk%d) /run/recovered
/run/kernel list /run/recovered > /run/list; umount /run/recovered; gzip -c /run/list`, options, len(busyDisks)))
	if err != nil {
		t.Fatal(err)
	}
	if r.ExitCode != 0 {
		t.Fatalf("the guest's recovery: exit %d: %s", r.ExitCode, r.Stderr)
	}
	z, err := gzip.NewReader(bytes.NewReader(r.Stdout))
	if err != nil {
		t.Fatal(err)
	}
	list, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(list), "\n"), "\n")
}

// picture copies disks at one moment of the machine: what the guest handed to its
// disks is there, what it still keeps is not, as if power had gone.
func picture(t *testing.T, m *lab.Machine, disks []string, to string) []string {
	t.Helper()
	defer stand(t, m)()
	var out []string
	for i, d := range disks {
		out = append(out, fmt.Sprintf("%s-%d", to, i))
		copyFile(t, d, out[i])
	}
	return out
}

// stand stops the machine until run is called.
func stand(t *testing.T, m *lab.Machine) (run func()) {
	t.Helper()
	client, err := qmp.Dial(t.Context(), m.QMP)
	if err != nil {
		t.Fatal(err)
	}
	if err := client.Execute(t.Context(), "stop", nil, nil); err != nil {
		t.Fatal(err)
	}
	return func() {
		defer client.Close()
		if err := client.Execute(t.Context(), "cont", nil, nil); err != nil {
			t.Error(err)
		}
	}
}

func (d *busyDisk) make(t *testing.T, path string) string {
	t.Helper()
	for _, name := range []string{"TEST_DIR", "TEST_DEV", "QA_CHECK_FS"} { // mkfs.xfs makes small ones for its own tests only
		t.Setenv(name, "1")
	}
	volumetest.Tool(t, d.mkfs[0], append(d.mkfs[1:], emptyDisk(t, path))...)
	return path
}

func emptyDisk(t *testing.T, path string) string {
	t.Helper()
	if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, busyDiskSize)); err != nil {
		t.Fatal(err)
	}
	return path
}

// putKernel builds the program that writes and lists, and puts it into the guest.
func putKernel(t *testing.T, m *lab.Machine, dir string) {
	t.Helper()
	path := filepath.Join(dir, "kernel")
	build := exec.CommandContext(t.Context(), "go", "build", "-ldflags=-s -w", "-o", path, "./volumetest/kernel")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	if err := m.Put(t.Context(), path, "/run/kernel"); err != nil {
		t.Fatal(err)
	}
}

// copyFile writes a disk's content over that of a file, which may be a disk of
// the guest and so keeps its size.
func copyFile(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close()); err != nil {
		t.Fatal(err)
	}
}
