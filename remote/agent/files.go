package agent

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/plumbline-sec/plumbline/baseline"
	"github.com/plumbline-sec/plumbline/baseline/sign"
	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/internal/durable"
	"github.com/plumbline-sec/plumbline/remote"
	"github.com/plumbline-sec/plumbline/remote/agent/vm"
)

// baseline captures the target's files from its disks and spools the manifest's
// digest; the verifier asks for the manifest itself. What the verifier makes of
// it, the first baseline or a comparison, is its own affair. logs are what the
// verifier's baseline has of growing files, of which the manifest says where they are.
func (t *target) baseline(ctx context.Context, command uint64, logs []baseline.Log) error {
	path := filepath.Join(t.agent.config.State, "manifest-"+t.config.Name)
	objects, err := t.capture(ctx, path, logs)
	if err != nil {
		return fmt.Errorf("capture files: %w", err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	digest := remote.DigestOf(data)
	t.agent.outbox.bodies.keepFile(digest, path)
	return put(t.agent.outbox, remote.KindBaseline,
		remote.Baseline{Target: t.config.Name, Command: command, Manifest: digest, Objects: int64(objects)})
}

// capture writes a manifest to path and returns how many objects it holds.
func (t *target) capture(ctx context.Context, path string, logs []baseline.Log) (uint64, error) {
	rulesFile := t.config.Files.Rules
	if rulesFile == "" {
		rulesFile = t.config.Watch.Rules
	}
	rules, err := loadRules(rulesFile)
	if err != nil {
		return 0, err
	}
	// The signature says which agent wrote the manifest and no more: the
	// verifier signs what it takes over with its own key.
	key, err := sign.LoadOrCreateKey(filepath.Join(t.agent.config.State, "manifest.key"))
	if err != nil {
		return 0, err
	}
	edition := &baseline.Edition{
		Tool: "plumbline agent " + t.agent.version, Created: time.Now(), Version: 1,
		Lineage: baseline.LineageOf(filewatch.Machine{Name: t.config.Name}, "capture"), Name: t.config.Name,
	}
	var header *baseline.Header
	err = durable.Replace(path, 0o600, func(w io.Writer) error {
		if t.config.Files.FullEvery > 0 || t.config.Files.Resume {
			header, err = t.captureSince(ctx, rules, logs, w, edition, key)
		} else {
			header, err = t.captureWhole(ctx, rules, logs, w, edition, key)
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	t.agent.log.Info("files captured", "target", t.config.Name, "objects", header.Objects, "unread", header.Unread)
	return header.Objects, nil
}

// captureWhole reads everything.
func (t *target) captureWhole(ctx context.Context, rules *filewatch.Rules, logs []baseline.Log, w io.Writer, e *baseline.Edition, key sign.Signer) (*baseline.Header, error) {
	files, err := t.openFiles(ctx)
	if err != nil {
		return nil, err
	}
	defer files.Close()
	options := baseline.CaptureOptions{Rules: rules, TempDir: t.agent.config.State}
	options.FollowLogs(logs)
	snapshot, err := baseline.Capture(ctx, files, &options)
	if err != nil {
		return nil, err
	}
	defer snapshot.Close()
	e.Lineage = baseline.LineageOf(files.Machine(), "capture")
	return snapshot.Write(w, e, key)
}

// captureSince builds on the last capture, or on one that was interrupted, where
// that holds.
func (t *target) captureSince(ctx context.Context, rules *filewatch.Rules, logs []baseline.Log, w io.Writer, e *baseline.Edition, key sign.Signer) (*baseline.Header, error) {
	since := vm.Since{
		Place: t.place(),
		Dir:   filepath.Join(t.agent.config.State, "scan-"+t.config.Name), Rules: rules, FullEvery: t.config.Files.FullEvery, Logs: logs,
		Capture: baseline.CaptureOptions{Rules: rules, TempDir: t.agent.config.State}, Once: t.config.Files.FullEvery == 0,
	}
	if t.config.Files.Resume {
		key, err := baseline.LoadOrCreateProgressKey(filepath.Join(t.agent.config.State, "progress.key"))
		if err != nil {
			return nil, err
		}
		since.Resume = &key
	}
	if len(since.Images) > 0 {
		since.QMP = ""
	}
	header, how, err := since.Write(ctx, w, e, key)
	if err != nil {
		return nil, err
	}
	t.agent.log.Info("scan", "target", t.config.Name, "full", how.Full, "reason", how.Reason, "looked_at", how.Looked, "bytes_read", how.Bytes)
	if r := how.Resumed; r != nil {
		t.agent.log.Info("resumed", "target", t.config.Name, "since", r.Since, "interruptions", r.Times, "contents", r.Objects, "bytes", r.Bytes)
		for _, v := range r.Anew {
			t.agent.log.Info("volume read anew", "target", t.config.Name, "volume", v.What, "reason", v.Reason)
		}
	}
	if how.Anew != "" {
		t.agent.log.Warn("nothing of the interrupted capture is taken over", "target", t.config.Name, "reason", how.Anew)
	}
	for _, v := range how.Whole {
		t.agent.log.Info("volume read whole", "target", t.config.Name, "volume", v.What, "reason", v.Reason)
	}
	if how.NotKept != "" {
		t.agent.log.Warn("the next scan will be full", "target", t.config.Name, "reason", how.NotKept)
	}
	return header, nil
}

// place is where the target's files are read from.
func (t *target) place() vm.Place {
	f := &t.config.Files
	return vm.Place{Name: t.config.Name, QMP: t.config.QMP, Monitor: &t.monitor, Images: f.Disks, Backing: f.Backing}
}

func (t *target) openFiles(ctx context.Context) (*vm.Files, error) {
	place := t.place()
	return vm.OpenFiles(ctx, &place)
}
