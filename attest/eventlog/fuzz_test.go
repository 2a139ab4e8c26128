package eventlog_test

import (
	"testing"

	"github.com/plumbline-sec/plumbline/attest/eventlog"
)

// FuzzParse: a log that parses whole replays and describes itself; a damaged
// one comes with its error; a header that is none gives no log.
func FuzzParse(f *testing.F) {
	data, _ := labLog(f)
	f.Add(data)
	f.Add(data[:200])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		log, err := eventlog.Parse(data)
		if log == nil {
			if err == nil {
				t.Fatal("neither log nor error")
			}
			return
		}
		for i := range log.Events {
			e := &log.Events[i]
			if e.Index != i {
				t.Fatalf("event %d says it is %d", i, e.Index)
			}
			if e.Describe() == "" {
				t.Fatalf("event %d is described by nothing", i)
			}
			e.Bound(eventlog.Bank("sha256"))
		}
		registers, replayErr := log.Replay(eventlog.Bank("sha256"))
		if (registers == nil) == (replayErr == nil) {
			t.Fatal("replay gives both or neither")
		}
	})
}

// FuzzDevicePath: a path or an error.
func FuzzDevicePath(f *testing.F) {
	f.Add([]byte{4, 4, 6, 0, 'a', 0, 0x7f, 0xff, 4, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		path, err := eventlog.ParseDevicePath(data)
		if (path == nil) == (err == nil) {
			t.Fatalf("both or neither: %v, %v", path, err)
		}
	})
}

// FuzzSignatures: the lists of PK, KEK, db and dbx.
func FuzzSignatures(f *testing.F) {
	data, _ := labLog(f)
	log := parse(f, data)
	for _, event := range []int{5, 7, 8} {
		v, err := log.Events[event].Variable()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(v.Data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := eventlog.Signatures(data)
		if err != nil && list != nil {
			t.Fatalf("both: %v, %v", list, err)
		}
	})
}
