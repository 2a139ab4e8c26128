package baseline

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/zeebo/blake3"
)

// wanting is a log of which one content, of so many bytes, is wanted.
func wanting(content string) *movedLog {
	m := newMovedLogs()
	m.follow("v", "/var/log/x", &prefix{size: int64(len(content)), want: blake3.Sum256([]byte(content))})
	return m.logs[logPlace{"v", "/var/log/", "x"}]
}

// What Debian's programs pack, at their defaults and at their most, is found.
func TestUnpacksWhatProgramsPack(t *testing.T) {
	text := strings.Repeat("a line of a log, and another\n", 2_000)
	for n := range 2_000 { // each other, and like those before
		text += fmt.Sprintf("Nov 26 12:00:00 host app[%d]: something happened again, number %d\n", n%100, n)
	}
	for _, command := range []string{"gzip -6", "gzip -9", "bzip2", "xz", "xz -9", "xz -0 --check=none", "xz -T2 --block-size=64KiB", "zstd -q", "zstd -q -19"} {
		words := strings.Fields(command)
		if _, err := exec.LookPath(words[0]); err != nil {
			t.Fatalf("%v: it is in .ci/packages", err)
		}
		cmd := exec.Command(words[0], append(words[1:], "-c")...)
		cmd.Stdin = strings.NewReader(text)
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", command, err)
		}
		ext := map[string]string{"gzip": ".gz", "bzip2": ".bz2", "xz": ".xz", "zstd": ".zst"}[words[0]]
		for _, size := range []int{0, 1, 4400, 100_001, len(text) - 1, len(text)} {
			if found, read := wanting(text[:size]).inside(t.Context(), ext, bytes.NewReader(out)); len(found) != 1 || read != int64(size) {
				t.Errorf("%s: the first %d bytes: %d found in %d", command, size, len(found), read)
			}
		}
		if found, _ := wanting(text+"x").inside(t.Context(), ext, bytes.NewReader(out)); len(found) != 0 {
			t.Errorf("%s: more than all found", command)
		}
		if found, _ := wanting(text).inside(t.Context(), ext, bytes.NewReader(out[:len(out)/2])); len(found) != 0 {
			t.Errorf("%s: all found in a half", command)
		}
	}
}

// A packed file cannot have more unpacked than is looked for, nor more memory taken.
func TestUnpackingIsBounded(t *testing.T) {
	bomb := packed(t, ".gz", strings.Repeat("\x00", 64<<20))
	log := wanting(strings.Repeat("x", 1000))
	if _, read := log.inside(t.Context(), ".gz", strings.NewReader(bomb)); read != 1000 {
		t.Errorf("%d bytes unpacked, want 1000", read)
	}
	u := log.unpacks(t.Context(), ".gz")
	io.WriteString(u, bomb)
	if u.end(); log.room.used != 1000 {
		t.Errorf("%d bytes of room used, want 1000", log.room.used)
	}
	u = log.unpacks(t.Context(), ".gz")
	if u.end(); log.room.used != 1000 {
		t.Errorf("%d bytes of room used for nothing", log.room.used-1000)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, read := wanting(strings.Repeat("x", 1<<20)).inside(over, ".gz", strings.NewReader(bomb)); read != 0 {
		t.Errorf("%d bytes unpacked when the scan was over", read)
	}
	// Dictionaries of 4 GiB are no larger than what is looked for, and few.
	before := allocated()
	wanting(strings.Repeat("x", 1<<20)).inside(t.Context(), ".xz", bytes.NewReader(hugeXZ()))
	if n := allocated() - before; n > 256<<20 {
		t.Errorf("%d MiB taken", n>>20)
	}
}

// What may be unpacked is for all logs together, however many there are.
func TestUnpackRoomIsForAll(t *testing.T) {
	m := newMovedLogs()
	var logs []*movedLog
	for n := range 3 {
		name := fmt.Sprint("log", n, "x")
		m.follow("v", "/var/log/"+name, &prefix{size: 1 << 20})
		m.follow("v", "/var/log/"+name+".1", &prefix{size: leastUnpacked})
		logs = append(logs, m.logs[logPlace{"v", "/var/log/", name}])
	}
	for n := range 3 * maxUnpacked {
		if !logs[n%2].reserve() {
			t.Fatalf("no room for the file %d", n)
		}
	}
	for n, log := range logs {
		if log.reserve() {
			t.Errorf("room of its own for log %d", n)
		}
	}
	var few unpackRoom
	few.grow(1)
	if !few.take(leastUnpacked) || few.take(1) {
		t.Error("small logs have another room than the least")
	}
}

func allocated() uint64 {
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.TotalAlloc
}

// FuzzUnpack: whatever is in a packed file, no more than was asked for comes out of it,
// and what is found was in it.
func FuzzUnpack(f *testing.F) {
	const text = "line 1\nlast\nand a longer line, a longer line, a longer line\n"
	for _, ext := range packings {
		if ext == ".bz2" {
			f.Add([]byte(packed(f, ext, "")), uint8(1))
			continue
		}
		f.Add([]byte(packed(f, ext, text)), uint8(0))
	}
	f.Add(hugeXZ(), uint8(3))
	f.Fuzz(func(t *testing.T, b []byte, n uint8) {
		for _, ext := range packings {
			log := wanting(text[:min(int(n), len(text))])
			found, read := log.inside(t.Context(), ext, bytes.NewReader(b))
			if read > log.most || len(found) > 0 && read < log.most {
				t.Fatalf("%s: %d bytes of %d, %d found", ext, read, log.most, len(found))
			}
		}
	})
}

// hugeXZ is a stream of many blocks without content, each with a dictionary of 4 GiB.
func hugeXZ() []byte {
	out := append([]byte("\xFD7zXZ\x00\x00\x00"), crc([]byte{0, 0})...)
	head := []byte{2, 0, 0x21, 1, 40, 0, 0, 0}
	block := append(append(head, crc(head)...), 0, 0, 0, 0)
	return append(out, bytes.Repeat(block, 4000)...)
}

func crc(b []byte) []byte { return binary.LittleEndian.AppendUint32(nil, crc32.ChecksumIEEE(b)) }
