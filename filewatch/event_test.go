package filewatch

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestEventJSONRoundTrip(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 123456789, time.UTC)
	for name, want := range map[string]*Event{
		"known actor": {Target: "vm1", Sequence: 7, Time: at, Op: OpRename, Path: "/a\xff", NewPath: `/b\c`,
			Object: &Object{Volume: "v", Inode: 12, Generation: 3, Type: TypeFile, Mode: 0o4755, UID: 1, GID: 2, Size: 9, Mtime: at, Ctime: at},
			Actor:  Actor{Process: Process{PID: 10, UID: 1000, Name: "mv"}, TID: 11, EUID: 0, Ancestry: []Process{{1, 0, "init"}}},
			Level:  Protect, Rule: "etc", Source: "trap",
			Verdict: Verdict{Outcome: Fail, Reason: "content changed", Attributes: []string{"blake3"}}},
		"unknown actor": {Target: "vm1", Sequence: 8, Time: at, Op: OpWrite, Path: "/x",
			Actor: Actor{Unknown: "written by the kernel"}, Level: Verify},
		"first name": {Target: "vm1", Sequence: 10, Time: at, Op: OpLink, NewPath: "/x", Object: &Object{Inode: 12, Type: TypeFile},
			Actor: Actor{Unknown: "no one saw"}, Level: Verify, Source: "tap", Status: Found, Detail: "why"},
		"window": {Target: "vm1", Sequence: 9, Since: at, Time: at.Add(time.Second), Op: OpRename, Path: "/x", NewPath: "/y", Below: 3,
			Actor: Actor{Unknown: "no one saw"}, Level: Verify, Source: "tap", Status: Found},
	} {
		text, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got Event
		if err := json.Unmarshal(text, &got); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, text)
		}
		if diff := cmp.Diff(want, &got); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestPathNow(t *testing.T) {
	for _, c := range []struct {
		op            Op
		path, newPath string
		want          string
	}{
		{OpWrite, "/a", "", "/a"}, {OpRename, "/a", "/b", "/b"}, {OpExchange, "/a", "/b", "/b"},
		{OpLink, "/a", "/b", "/a"}, {OpLink, "", "/b", "/b"}, {OpUnlink, "", "", ""},
	} {
		if got := (&Event{Op: c.op, Path: c.path, NewPath: c.newPath}).PathNow(); got != c.want {
			t.Errorf("%v of %q, %q: %q, want %q", c.op, c.path, c.newPath, got, c.want)
		}
	}
}

func TestEventIsOCSF(t *testing.T) {
	text, err := json.Marshal(&Event{Target: "vm1", Sequence: 1, Op: OpChmod, Path: "/bin/su", Actor: Actor{Unknown: "no task"}})
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{"class_uid": 1001.0, "category_uid": 1.0, "activity_id": 7.0, "type_uid": 100107.0, "sequence": 1.0, "target": "vm1"}
	for key, value := range want {
		if got[key] != value {
			t.Errorf("%s: got %v, want %v", key, got[key], value)
		}
	}
	if diff := cmp.Diff(map[string]any{"unknown": "no task"}, got["actor"]); diff != "" {
		t.Error(diff)
	}
}

func FuzzEventJSON(f *testing.F) {
	text, err := json.Marshal(&Event{Op: OpWrite, Path: "/x", Object: &Object{Type: TypeFile, Inode: 1}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		var e Event
		if json.Unmarshal(text, &e) == nil {
			if _, err := json.Marshal(&e); err != nil {
				t.Fatal(err)
			}
		}
	})
}
