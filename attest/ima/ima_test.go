package ima_test

import (
	"bytes"
	"crypto"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/plumbline-sec/plumbline/attest/ima"
)

// labList is the list of a real boot with the value of PCR 10 and those of
// PCRs 0 to 9; attest/testdata/lab/README.md says which.
func labList(t testing.TB) (data, pcr10 []byte, boot map[int][]byte) {
	t.Helper()
	raw, err := os.ReadFile("../testdata/lab/evidence.json")
	if err != nil {
		t.Fatal(err)
	}
	var ev struct {
		IMALog []byte `json:"ima_log"`
		Banks  []struct {
			PCRs map[int]string `json:"pcrs"`
		} `json:"banks"`
	}
	if err := json.Unmarshal(raw, &ev); err != nil {
		t.Fatal(err)
	}
	boot = make(map[int][]byte)
	for pcr, value := range ev.Banks[0].PCRs {
		if boot[pcr], err = hex.DecodeString(value); err != nil {
			t.Fatal(err)
		}
	}
	return ev.IMALog, boot[10], boot
}

func parse(t testing.TB, data []byte) *ima.List {
	t.Helper()
	list, err := ima.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestReplayReachesTheTPM(t *testing.T) {
	data, pcr10, boot := labList(t)
	list := parse(t, data)
	n, err := list.Match(crypto.SHA256, 10, pcr10)
	if err != nil || n < 50 {
		t.Errorf("matched %d of %d entries: %v", n, len(list.Entries), err)
	}
	first := list.Entries[0]
	aggregate, ok := ima.Aggregate(crypto.SHA256, boot)
	if !ok || first.Path != "boot_aggregate" || !bytes.Equal(aggregate, first.Digest) {
		t.Errorf("boot aggregate %x, list has %x for %q", aggregate, first.Digest, first.Path)
	}
}

// TestMatchFindsThePrefix: the list is longer than what the quote covers.
func TestMatchFindsThePrefix(t *testing.T) {
	data, pcr10, _ := labList(t)
	list := parse(t, data)
	n, err := list.Match(crypto.SHA256, 10, pcr10)
	if err != nil {
		t.Fatal(err)
	}
	list.Entries = append(list.Entries, list.Entries[3])
	if again, err := list.Match(crypto.SHA256, 10, pcr10); err != nil || again != n {
		t.Errorf("with one more entry: %d, %v, want %d", again, err, n)
	}
	list.Entries = list.Entries[:n-1]
	if _, err := list.Match(crypto.SHA256, 10, pcr10); !errors.Is(err, ima.ErrNoMatch) {
		t.Errorf("with one entry less: %v, want ErrNoMatch", err)
	}
}

// TestTextFormAgrees reads the same boot's list in the kernel's other form; it
// was read later and has a few entries more.
func TestTextFormAgrees(t *testing.T) {
	data, pcr10, _ := labList(t)
	text, err := os.ReadFile("../testdata/lab/ima.ascii")
	if err != nil {
		t.Fatal(err)
	}
	fromText, fromBinary := parse(t, text), parse(t, data)
	if len(fromText.Entries) < len(fromBinary.Entries) {
		t.Fatalf("%d entries in text, %d in binary", len(fromText.Entries), len(fromBinary.Entries))
	}
	fromText.Entries = fromText.Entries[:len(fromBinary.Entries)]
	if diff := cmp.Diff(fromBinary.Entries, fromText.Entries, cmp.Comparer(func(a, b []byte) bool { return bytes.Equal(a, b) })); diff != "" {
		t.Errorf("binary (-) and text (+) differ:\n%s", diff)
	}
	if _, err := fromText.Match(crypto.SHA256, 10, pcr10); err != nil {
		t.Error(err)
	}
}

// entry makes an entry of the binary list.
func entry(template string, fields ...[]byte) []byte {
	var data []byte
	for _, f := range fields {
		data = binary.LittleEndian.AppendUint32(data, uint32(len(f)))
		data = append(data, f...)
	}
	hash := sha1.Sum(data)
	out := binary.LittleEndian.AppendUint32(nil, 10)
	out = append(out, hash[:]...)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(template)))
	out = append(out, template...)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(data)))
	return append(out, data...)
}

func digestField(prefix string) []byte {
	sum := sha256.Sum256([]byte("content"))
	return append([]byte(prefix+":\x00"), sum[:]...)
}

func TestTemplates(t *testing.T) {
	sum := sha256.Sum256([]byte("content"))
	for _, c := range []struct {
		name string
		data []byte
		want ima.Entry
	}{
		{"ima-ng", entry("ima-ng", digestField("sha256"), []byte("/a b\x00")),
			ima.Entry{Path: "/a b", Algorithm: "sha256", Digest: sum[:]}},
		{"ima-sig", entry("ima-sig", digestField("sha256"), []byte("/a\x00"), []byte{3, 2, 4}),
			ima.Entry{Path: "/a", Algorithm: "sha256", Digest: sum[:], Signature: []byte{3, 2, 4}}},
		{"ima-ngv2", entry("ima-ngv2", digestField("ima:sha256"), []byte("/a\x00")),
			ima.Entry{Path: "/a", Algorithm: "sha256", Digest: sum[:]}},
		{"ima-sigv2 of fs-verity", entry("ima-sigv2", digestField("verity:sha256"), []byte("/a\x00"), nil),
			ima.Entry{Path: "/a", Algorithm: "sha256", Digest: sum[:], Verity: true}},
		{"ima-buf", entry("ima-buf", digestField("sha256"), []byte("kexec-cmdline\x00"), []byte("ro quiet")),
			ima.Entry{Path: "kexec-cmdline", Algorithm: "sha256", Digest: sum[:]}},
		{"a template of another kernel", entry("evm-sig", digestField("sha256")), ima.Entry{}},
	} {
		got := parse(t, c.data).Entries[0]
		if got.Path != c.want.Path || got.Algorithm != c.want.Algorithm || !bytes.Equal(got.Digest, c.want.Digest) ||
			!bytes.Equal(got.Signature, c.want.Signature) || got.Verity != c.want.Verity || got.Violation() {
			t.Errorf("%s: %+v", c.name, got)
		}
	}
}

// TestTextTemplates: the text form rebuilds what was hashed.
func TestTextTemplates(t *testing.T) {
	for _, c := range []struct {
		template, prefix, path string
		fields                 [][]byte
		tail                   string
	}{
		{"ima-ng", "sha256", "/with two blanks", nil, ""},
		{"ima-sig", "sha256", "/plain", [][]byte{nil}, ""},
		{"ima-sig", "sha256", "/plain", [][]byte{nil}, " "},
		{"ima-sig", "sha256", "/ends in cafe", [][]byte{nil}, ""},
		{"ima-sig", "sha256", "/signed file", [][]byte{{0xca, 0xfe}}, " cafe"},
		{"ima-ngv2", "ima:sha256", "/a", nil, ""},
		{"ima-sigv2", "ima:sha256", "/a", [][]byte{{3}}, " 03"},
	} {
		fields := append([][]byte{digestField(c.prefix), append([]byte(c.path), 0)}, c.fields...)
		want := parse(t, entry(c.template, fields...)).Entries[0]
		line := fmt.Sprintf("10 %x %s %s:%x %s%s\n", want.Hash, c.template, c.prefix, want.Digest, c.path, c.tail)
		list, err := ima.Parse([]byte(line))
		if err != nil {
			t.Errorf("%q: %v", line, err)
			continue
		}
		if got := list.Entries[0]; got.Path != c.path || !bytes.Equal(got.Data, want.Data) {
			t.Errorf("%q: path %q, data %x, want %x", line, got.Path, got.Data, want.Data)
		}
	}
}

// TestViolation: the kernel extends ones for a file that was being written.
func TestViolation(t *testing.T) {
	data := entry("ima-ng", digestField("sha256"), []byte("/var/log/messages\x00"))
	copy(data[4:24], make([]byte, 20))
	list := parse(t, data)
	if !list.Entries[0].Violation() {
		t.Fatal("not seen as a violation")
	}
	value := sha256.Sum256(append(make([]byte, 32), bytes.Repeat([]byte{0xff}, 32)...))
	if n, err := list.Match(crypto.SHA256, 10, value[:]); n != 1 || err != nil {
		t.Errorf("matched %d: %v", n, err)
	}
}

func TestRefuses(t *testing.T) {
	good := entry("ima-ng", digestField("sha256"), []byte("/a\x00"))
	edit := func(offset int, value uint32) []byte {
		out := bytes.Clone(good)
		binary.LittleEndian.PutUint32(out[offset:], value)
		return append(bytes.Clone(good), out...)
	}
	for name, c := range map[string]struct {
		data []byte
		want error
	}{
		"cut entry":               {append(bytes.Clone(good), good[:50]...), ima.ErrFormat},
		"PCR 255":                 {edit(0, 255), ima.ErrFormat},
		"name of 4 GiB":           {edit(24, 0xffffffff), ima.ErrFormat},
		"data of 4 GiB":           {edit(34, 0xffffffff), ima.ErrFormat},
		"field past the entry":    {edit(38, 1000), ima.ErrFormat},
		"hash of something else":  {edit(4, 0x01020304), ima.ErrTemplate},
		"text without fields":     {[]byte("10 x\n"), ima.ErrFormat},
		"text with a bad hash":    {[]byte("10 zz ima-ng sha256:00 /a\n"), ima.ErrFormat},
		"text of unknown fields":  {[]byte("10 0000000000000000000000000000000000000001 evm-sig sha256:00 /a\n"), ima.ErrFormat},
		"text of an edited entry": {[]byte("10 0000000000000000000000000000000000000001 ima-ng sha256:00 /a\n"), ima.ErrTemplate},
	} {
		list, err := ima.Parse(c.data)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
		if want := bytes.HasPrefix(c.data, good); want && len(list.Entries) != 1 {
			t.Errorf("%s: %d entries before the damage", name, len(list.Entries))
		}
	}
}

// FuzzParse: entries, each tied to its hash, or an error.
func FuzzParse(f *testing.F) {
	data, _, _ := labList(f)
	f.Add(data[:400])
	f.Add([]byte("10 0123456789012345678901234567890123456789 ima-ng sha256:00 /init\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := ima.Parse(data)
		if list == nil {
			t.Fatal("no list")
		}
		if err == nil && len(list.Entries) == 0 && len(data) > 0 {
			t.Fatal("neither entries nor an error")
		}
		for _, e := range list.Entries {
			if !e.Violation() && sha1.Sum(e.Data) != e.Hash {
				t.Fatalf("entry %d is not tied to its hash", e.Index)
			}
		}
		_, _ = list.Match(crypto.SHA256, 10, bytes.Repeat([]byte{1}, 32))
	})
}
