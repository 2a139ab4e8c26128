package eventlog_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/attest/eventlog"
)

// labLog is the log of a real boot: attest/testdata/lab/README.md says which.
func labLog(t testing.TB) (data []byte, pcrs map[int]string) {
	t.Helper()
	raw, err := os.ReadFile("../testdata/lab/evidence.json")
	if err != nil {
		t.Fatal(err)
	}
	var ev struct {
		EventLog []byte `json:"event_log"`
		Banks    []struct {
			PCRs map[int]string `json:"pcrs"`
		} `json:"banks"`
	}
	if err := json.Unmarshal(raw, &ev); err != nil {
		t.Fatal(err)
	}
	return ev.EventLog, ev.Banks[0].PCRs
}

func parse(t testing.TB, data []byte) *eventlog.Log {
	t.Helper()
	log, err := eventlog.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// TestReplayReachesTheTPM compares with the values that a real TPM quoted.
func TestReplayReachesTheTPM(t *testing.T) {
	data, pcrs := labLog(t)
	registers, err := parse(t, data).Replay(eventlog.Bank("sha256"))
	if err != nil {
		t.Fatal(err)
	}
	for pcr := range 16 {
		if pcr == 10 { // IMA's
			continue
		}
		if got := hex.EncodeToString(registers[pcr].Value); got != pcrs[pcr] {
			t.Errorf("PCR %d: replay %s, quoted %s", pcr, got, pcrs[pcr])
		}
	}
	if got := registers[17].Value; !bytes.Equal(got, bytes.Repeat([]byte{0xff}, 32)) {
		t.Errorf("PCR 17 at reset: %x", got)
	}
}

func TestWords(t *testing.T) {
	data, _ := labLog(t)
	log := parse(t, data)
	want := map[int]string{
		4:  "Secure Boot is on",
		8:  "dbx holds sha256 e3b0c44298fc1c14...",
		9:  "separator: what follows comes after the firmware handed over",
		12: `boot entry Boot0000 "UiApp": Fv(7cb8bdc9-f8eb-4f34-aaea-3ee4af6516a1)/FvFile(462caa21-7614-4503-836e-8ab6f4662331)`,
		14: "firmware: Calling EFI Application from Boot Option",
		23: `EFI application PciRoot(0x0)/Pci(0x1,0x0)/\EFI\BOOT\BOOTX64.EFI`,
		28: `boot loader measured ".cmdline"`,
		33: `tag 0x8f3b22ec: "Linux initrd"`,
	}
	got := make(map[int]string)
	for i := range want {
		got[i] = log.Events[i].Describe()
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if db := log.Events[7].Describe(); !strings.HasPrefix(db, `db holds certificate "O=SnakeOil`) {
		t.Errorf("db: %s", db)
	}
}

// TestBound tells proved data from claims.
func TestBound(t *testing.T) {
	data, _ := labLog(t)
	log := parse(t, data)
	for event, want := range map[int]bool{4: true, 9: true, 22: true, 23: false, 24: false} {
		if got := log.Events[event].Bound(eventlog.Bank("sha256")); got != want {
			t.Errorf("event %d (%s): bound %t", event, log.Events[event].Type, got)
		}
	}
}

// TestDamagedLogKeepsItsStart: a partial log comes with the error.
func TestDamagedLogKeepsItsStart(t *testing.T) {
	data, _ := labLog(t)
	whole := parse(t, data)
	log, err := eventlog.Parse(data[:len(data)-1])
	if !errors.Is(err, eventlog.ErrFormat) {
		t.Fatalf("cut log: %v, want ErrFormat", err)
	}
	if got, want := len(log.Events), len(whole.Events)-1; got != want {
		t.Errorf("cut log has %d events, want %d", got, want)
	}
}

func TestRefuses(t *testing.T) {
	data, _ := labLog(t)
	const firstEvent = 8 + 20 + 4 + 33 // the header's own size in this log
	edit := func(offset int, value uint32) []byte {
		out := bytes.Clone(data)
		binary.LittleEndian.PutUint32(out[offset:], value)
		return out
	}
	for name, c := range map[string]struct {
		data []byte
		want error
	}{
		"empty":                        {nil, eventlog.ErrFormat},
		"SHA-1 log":                    {edit(4, 1), eventlog.ErrNotSupported},
		"header of 4 GiB":              {edit(28, 0xffffffff), eventlog.ErrFormat},
		"event of PCR 99":              {edit(firstEvent, 99), eventlog.ErrFormat},
		"event of 4 billion digests":   {edit(firstEvent+8, 0xffffffff), eventlog.ErrFormat},
		"digest of another algorithm":  {edit(firstEvent+12, 0x96a20004), eventlog.ErrFormat},
		"event that claims 4 GiB":      {edit(firstEvent+12+2+32, 0xffffffff), eventlog.ErrFormat},
		"header with 1000 algorithms":  {edit(32+24, 1000), eventlog.ErrFormat},
		"algorithm with another size":  {edit(32+28, 0x0014000b), eventlog.ErrFormat},
		"kernel's log of another kind": {[]byte("10 0123 ima-ng sha256:00 /init\n"), eventlog.ErrFormat},
	} {
		if _, err := eventlog.Parse(c.data); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// TestStartupLocality: the H-CRTM's locality is in PCR 0 before anything is
// measured, and only then.
func TestStartupLocality(t *testing.T) {
	data, _ := labLog(t)
	log := parse(t, data)
	locality := eventlog.Event{Type: eventlog.NoAction, Data: []byte("StartupLocality\x00\x04")}
	before, err := log.Replay(eventlog.Bank("sha256"))
	if err != nil {
		t.Fatal(err)
	}
	log.Events = append([]eventlog.Event{log.Events[0], locality}, log.Events[1:]...)
	after, err := log.Replay(eventlog.Bank("sha256"))
	if err != nil {
		t.Fatal(err)
	}
	for pcr := range 24 {
		if same := bytes.Equal(before[pcr].Value, after[pcr].Value); same != (pcr != 0) {
			t.Errorf("PCR %d: same %t", pcr, same)
		}
	}
	log.Events = append(log.Events, locality)
	if _, err := log.Replay(eventlog.Bank("sha256")); !errors.Is(err, eventlog.ErrFormat) {
		t.Errorf("a second startup locality: %v, want ErrFormat", err)
	}
}

func TestDevicePaths(t *testing.T) {
	utf16 := func(s string) (out []byte) {
		for _, r := range s {
			out = append(out, byte(r), 0)
		}
		return append(out, 0, 0)
	}
	node := func(kind, sub byte, body []byte) []byte {
		return append([]byte{kind, sub, byte(len(body) + 4), byte((len(body) + 4) >> 8)}, body...)
	}
	end := []byte{0x7f, 0xff, 4, 0}
	partition := append([]byte{1, 0, 0, 0}, make([]byte, 16)...)
	partition = append(partition, 0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b, 2, 2)
	for _, c := range []struct {
		name string
		data []byte
		want eventlog.DevicePath
		err  error
	}{
		{name: "empty", want: eventlog.DevicePath{}},
		{"file on a partition", concat(node(4, 1, partition), node(4, 4, utf16(`\EFI\BOOT\BOOTX64.EFI`)), end), eventlog.DevicePath{
			Text: `HD(1,GPT,c12a7328-f81f-11d2-ba4b-00a0c93ec93b,0x0,0x0)/\EFI\BOOT\BOOTX64.EFI`, File: `\EFI\BOOT\BOOTX64.EFI`}, nil},
		{"NVMe", concat(node(2, 1, []byte{0xd0, 0x41, 3, 0x0a, 0, 0, 0, 0}), node(1, 1, []byte{2, 1}), node(3, 0x17, []byte{1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8}), end),
			eventlog.DevicePath{Text: "PciRoot(0x0)/Pci(0x1,0x2)/NVMe(0x1,0102030405060708)"}, nil},
		{"unknown node", concat(node(9, 9, []byte{1}), end), eventlog.DevicePath{Text: "Path(9,9,01)"}, nil},
		{"terminal escape", concat(node(4, 4, utf16("\x1b[2J")), end), eventlog.DevicePath{Text: "\uFFFD[2J", File: "\uFFFD[2J"}, nil},
		{"node shorter than its header", []byte{4, 4, 3, 0}, eventlog.DevicePath{}, eventlog.ErrFormat},
		{"node that never advances", []byte{4, 4, 0, 0, 4, 4, 0, 0}, eventlog.DevicePath{}, eventlog.ErrFormat},
		{"node past the end", []byte{4, 4, 0xff, 0xff, 0}, eventlog.DevicePath{}, eventlog.ErrFormat},
		{"65 nodes", bytes.Repeat([]byte{1, 1, 4, 0}, 65), eventlog.DevicePath{}, eventlog.ErrFormat},
	} {
		got, err := eventlog.ParseDevicePath(c.data)
		if !errors.Is(err, c.err) {
			t.Errorf("%s: %v, want %v", c.name, err, c.err)
			continue
		}
		if err == nil {
			if diff := cmp.Diff(c.want, *got); diff != "" {
				t.Errorf("%s: %s", c.name, diff)
			}
		}
	}
}

func concat(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
