package sqlite_test

import (
	"bufio"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/store"
	"github.com/plumbline-sec/plumbline/remote/store/sqlite"
	"github.com/plumbline-sec/plumbline/remote/store/storetest"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("SQLITE_TEST_APPEND_TO"); path != "" {
		appendForEver(path)
	}
	os.Exit(m.Run())
}

func TestStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) func() store.Store {
		path := filepath.Join(t.TempDir(), "store ?#%.db") // characters that a DSN must escape
		return func() store.Store {
			s, err := sqlite.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
	})
}

func TestFileIsForItsOwnerOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	s, err := sqlite.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, suffix := range []string{"", "-wal", "-shm"} {
		info, err := os.Stat(path + suffix)
		if err != nil {
			t.Fatal(err)
		}
		if perm := info.Mode().Perm(); perm != 0o600 {
			t.Errorf("mode of %s is %o, want 600", path+suffix, perm)
		}
	}
}

func TestRefusesNewerSchema(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec("PRAGMA user_version = 99"); err != nil {
		t.Fatal(err)
	}
	db.Close()
	if s, err := sqlite.Open(path); !errors.Is(err, store.ErrVersion) {
		t.Errorf("Open = %v, %v, want ErrVersion", s, err)
	}
}

// A file of the first schema, in which nothing could be asked for by its state.
func TestTakesOverTheFirstSchema(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	document := func(collection, key, value string) store.Change {
		return store.Change{Document: store.Document{Collection: collection, Key: key, Value: []byte(value)}}
	}
	s, err := sqlite.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	err = s.Apply(t.Context(), nil, document("scan", "a", `{"state":"waiting"}`), document("scan", "b", `{"state":"judged"}`),
		document("review", "c", `{"state":"open"}`), document("machine", "d", `{"state":"trusted"}`), document("scan", "e", `{}`))
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = db.Exec("DROP INDEX documents_state; ALTER TABLE documents DROP COLUMN state; PRAGMA user_version = 1")
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	if s, err = sqlite.Open(path); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, q := range []store.Query{{Collection: "scan", State: "waiting"}, {Collection: "review", State: "open"}} {
		docs, err := s.List(t.Context(), q)
		if err != nil || len(docs) != 1 {
			t.Errorf("%+v: %d documents, %v", q, len(docs), err)
		}
	}
	if d, err := s.Get(t.Context(), "machine", "d"); err != nil || d.State != "" {
		t.Errorf("a machine: %+v, %v", d, err)
	}
}

// appendForEver is the child of TestKilledProcessKeepsWhatItAcknowledged: it
// says on standard output what is durable, until it is killed.
func appendForEver(path string) {
	s, err := sqlite.Open(path)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for seq := uint64(1); ; seq++ {
		record := remote.Record{Seq: seq, Kind: remote.KindEvent, Time: time.Now(), Body: json.RawMessage("{}")}
		receipt, err := s.Append(context.Background(), store.Stream{Agent: "a", Spool: "s"}, time.Now(), []remote.Record{record})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(receipt.Acked)
	}
}

func TestKilledProcessKeepsWhatItAcknowledged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "store.db")
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), "SQLITE_TEST_APPEND_TO="+path)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var acked uint64
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if acked, err = strconv.ParseUint(lines.Text(), 10, 64); err != nil {
			t.Fatal(err)
		}
		if acked == 100 {
			child.Process.Kill() // in the middle of the next one
		}
	}
	child.Wait()
	if acked < 100 {
		t.Fatalf("the child acknowledged %d records before it ended", acked)
	}
	s, err := sqlite.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	pending, err := s.Pending(t.Context(), 1<<20, remote.KindEvent)
	if err != nil {
		t.Fatal(err)
	}
	if uint64(len(pending)) < acked {
		t.Errorf("%d records are stored, %d were acknowledged", len(pending), acked)
	}
	for i, r := range pending {
		if r.Record.Seq != uint64(i+1) {
			t.Fatalf("record %d has number %d", i, r.Record.Seq)
		}
	}
}
