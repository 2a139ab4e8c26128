package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/bougou/go-ipmi/pkg/types"

	"github.com/plumbline-sec/plumbline/internal/durable"
	"github.com/plumbline-sec/plumbline/measure/oob/wire"
	"github.com/plumbline-sec/plumbline/remote"
)

func TestSelfConfig(t *testing.T) {
	for text, ok := range map[string]bool{
		"enabled = true":                    true,
		"enabled = true\nevery = \"500ms\"": true,
		"every = \"1ms\"":                   false,
		"every = \"1h\"":                    false,
		"every = \"soon\"":                  false,
		"device = -1":                       false,
	} {
		if _, err := ParseConfig([]byte(withoutTarget+"[self]\n"+text), t.TempDir()); (err == nil) != ok || err != nil && !errors.Is(err, ErrConfig) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if _, err := ParseConfig([]byte("role = \"guest\"\n"+withoutTarget+"[self]\nenabled = true\n"), t.TempDir()); !errors.Is(err, ErrConfig) {
		t.Errorf("a guest that measures itself: %v", err)
	}
}

const withoutTarget = `
name = "metal"
state = "state"
[verifier]
address = "https://127.0.0.1:8443"
fingerprint = "aa"
`

// log is an event log that is empty at first.
type log struct {
	looks  int
	record *types.SEL
}

func (l *log) Entries(context.Context, uint16) ([]*types.SEL, error) {
	if l.looks++; l.looks == 1 {
		return nil, nil
	}
	return []*types.SEL{l.record}, nil
}

// A record has the machine measured with the nonce it carries; what goes wrong is
// an answer too.
func TestRecordIsAnswered(t *testing.T) {
	spool, err := durable.OpenSpool(filepath.Join(t.TempDir(), "spool"), durable.SpoolOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer spool.Close()
	quiet := slog.New(slog.NewTextHandler(io.Discard, nil))
	a := &Agent{config: &Config{Name: "metal", Self: SelfConfig{Enabled: true, Every: "100ms"}}, log: quiet,
		outbox: &outbox{spool: spool, bodies: newBodyCache(), log: quiet}}
	record := &types.SEL{RecordID: 1, RecordType: types.SELRecordType(wire.SELRecordType),
		OEMNonTimestamped: &types.SELOEMNonTimestamped{OEM: wire.SELRecord([wire.NonceSize]byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11})}}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	asked := errors.New("this machine cannot be opened")
	a.watchLog(ctx, &log{record: record}, func(context.Context) (measurable, error) { cancel(); return nil, asked })

	items, err := spool.Read(0, 10, 1<<20)
	if err != nil || len(items) != 1 {
		t.Fatalf("%d records in the spool, %v", len(items), err)
	}
	var envelope spooled
	var scan remote.Scan
	if err := errors.Join(json.Unmarshal(items[0].Payload, &envelope), json.Unmarshal(envelope.Body, &scan)); err != nil {
		t.Fatal(err)
	}
	want := remote.Nonce{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
	if scan.Target != "metal" || scan.Nonce != want || scan.Error != asked.Error() {
		t.Errorf("spooled: %+v", scan)
	}
}
