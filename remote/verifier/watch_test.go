package verifier

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/baseline/sign"
	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/remote"
)

// watch is a host's watch on a target, as the agent tells of it.
type watch struct {
	t      *testing.T
	agent  *softAgent
	target string
	stream string
	seq    uint64
	at     time.Time
	rules  *filewatch.Rules // of captures
	logs   []baseline.Log   // that captures look for
	gaps   []filewatch.Gap  // of captures
}

func newWatch(t *testing.T, agent *softAgent, target string) *watch {
	return &watch{t: t, agent: agent, target: target, stream: "w1", at: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)}
}

const volume = "3f0c7b1e-0000-4000-8000-000000000001"

// diskFile is a file as it is on the target's disk.
type diskFile struct {
	baseline.Record
	content string
}

func file(path string, inode uint64, content string) *diskFile {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	return &diskFile{content: content, Record: baseline.Record{
		Object: filewatch.Object{Volume: volume, Inode: inode, Generation: 1, Type: filewatch.TypeFile, Mode: 0o644, Nlink: 1,
			Size: int64(len(content)), Mtime: at, Ctime: at},
		Names: []string{path}, BLAKE3: baseline.Digest(remote.DigestOf([]byte(content))),
	}}
}

// disk implements baseline.Source.
type disk []*diskFile

func (d disk) Machine() filewatch.Machine { return filewatch.Machine{Volumes: []string{volume}} }

func (d disk) Scan(_ context.Context, _ baseline.WantFunc, visit baseline.VisitFunc) ([]filewatch.Gap, error) {
	for _, f := range d {
		if err := visit(&f.Object, f.Names, strings.NewReader(f.content), nil); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// gappy is a disk of which parts cannot be read.
type gappy struct {
	disk
	gaps []filewatch.Gap
}

func (g gappy) Scan(ctx context.Context, want baseline.WantFunc, visit baseline.VisitFunc) ([]filewatch.Gap, error) {
	_, err := g.disk.Scan(ctx, want, visit)
	return g.gaps, err
}

// event tells of an operation and returns its number.
func (w *watch) event(op filewatch.Op, f *diskFile) uint64 {
	w.t.Helper()
	w.seq++
	w.tell(&filewatch.Event{Op: op, Path: f.Path(), Object: &f.Object}, remote.Event{Sequence: w.seq})
	return w.seq
}

// settle tells what was found on disk after event number; nil: it could not be
// read.
func (w *watch) settle(number uint64, found *diskFile) {
	w.t.Helper()
	w.seq++
	e := &filewatch.Event{Follows: number, Verdict: filewatch.Verdict{Outcome: filewatch.NotMeasured, Reason: "the volume is damaged"}}
	body := remote.Event{Sequence: w.seq, Follows: number}
	if found != nil {
		e.Path, e.Object, e.Verdict = found.Path(), &found.Object, filewatch.Verdict{}
		var err error
		if body.Object, err = json.Marshal(&found.Record); err != nil {
			w.t.Fatal(err)
		}
	}
	w.tell(e, body)
}

func (w *watch) tell(e *filewatch.Event, body remote.Event) {
	w.t.Helper()
	w.send(e, body, filewatch.Actor{Process: filewatch.Process{PID: 412, UID: 0, Name: "sh"}})
}

func (w *watch) send(e *filewatch.Event, body remote.Event, actor filewatch.Actor) {
	w.t.Helper()
	e.Target, e.Sequence, e.Time, e.Actor = w.target, body.Sequence, w.at, actor
	e.Level = filewatch.Ignore // the agent's word, which must not count
	var err error
	if body.Event, err = json.Marshal(e); err != nil {
		w.t.Fatal(err)
	}
	body.Target, body.Stream = w.target, w.stream
	w.agent.send(remote.KindEvent, body)
}

// capture sends a manifest of files in answer to a command, 0 for none.
func (w *watch) capture(command uint64, files ...*diskFile) {
	w.t.Helper()
	key, err := sign.LoadOrCreateKey(w.t.TempDir() + "/key")
	if err != nil {
		w.t.Fatal(err)
	}
	options := &baseline.CaptureOptions{Rules: w.rules}
	options.FollowLogs(w.logs)
	snapshot, err := baseline.Capture(context.Background(), gappy{disk(files), w.gaps}, options)
	if err != nil {
		w.t.Fatal(err)
	}
	defer snapshot.Close()
	var manifest bytes.Buffer
	header, err := snapshot.Write(&manifest, &baseline.Edition{Tool: "test", Created: w.at, Lineage: "l", Version: 1, Name: w.target}, key)
	if err != nil {
		w.t.Fatal(err)
	}
	w.agent.send(remote.KindStatus, remote.Status{State: remote.WatchStarted, Target: w.target})
	reply := w.agent.send(remote.KindBaseline, remote.Baseline{Target: w.target, Command: command,
		Manifest: remote.DigestOf(manifest.Bytes()), Objects: int64(header.Objects)})
	if len(reply.Need) != 1 {
		w.t.Fatalf("the verifier asks for %d bodies, want the manifest", len(reply.Need))
	}
	if _, err := w.agent.PutBody(w.t.Context(), manifest.Bytes()); err != nil {
		w.t.Fatal(err)
	}
}
