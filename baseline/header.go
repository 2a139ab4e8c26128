package baseline

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/plumbline-sec/plumbline/filewatch"
)

// Header is what is signed: whose files these are, which version, and the
// digest of all records.
type Header struct {
	Format int `json:"format"` // 1
	// Tool is what wrote the baseline.
	Tool    string            `json:"tool"`
	Created time.Time         `json:"created"`
	Machine filewatch.Machine `json:"machine"`
	// Lineage names the series of versions this baseline belongs to, Version
	// counts within it from 1.
	Lineage string `json:"lineage"`
	Version uint64 `json:"version"`
	// Rules is the TOML the objects were chosen with, "" for the default rule.
	// RulesDigest is its BLAKE3.
	Rules       string `json:"rules,omitempty"`
	RulesDigest string `json:"rules_digest"`
	// Gaps are what could not be seen.
	Gaps []filewatch.Gap `json:"gaps,omitempty"`
	// Objects counts the records, Unread those that could not be read whole.
	Objects uint64 `json:"objects"`
	Unread  uint64 `json:"unread,omitempty"`
	// Logs say where the contents of another baseline's growing files are, for which
	// the capture was asked to look: see [CaptureOptions.FollowLogs].
	Logs []Log `json:"logs,omitempty"`
	// Accepted are the changes taken over since version 1, oldest first.
	Accepted []Acceptance `json:"accepted,omitempty"`
	Body     Body         `json:"body"`
}

// Body says where the records are in the file.
type Body struct {
	Size   int64   `json:"size"` // compressed bytes
	BLAKE3 string  `json:"blake3"`
	Blocks []Block `json:"blocks"`
}

// Block is a part of the body that can be decompressed alone.
type Block struct {
	Size int64  `json:"size"` // compressed bytes
	Path string `json:"path"` // of its first record, escaped
}

// Acceptance is a decision to call changes right.
type Acceptance struct {
	Version uint64    `json:"version"` // the version it led to
	Time    time.Time `json:"time"`
	Author  string    `json:"author"`
	Reason  string    `json:"reason"`
	// Selection says in words what was asked for: a path, a package, a window.
	Selection string   `json:"selection"`
	Changes   []string `json:"changes"` // "changed /etc/motd", paths escaped
}

var (
	// ErrOtherMachine: the baseline is of another machine.
	ErrOtherMachine = errors.New("baseline of another machine")
	// ErrRollback: a newer version has been seen.
	ErrRollback = errors.New("baseline is older than one already used")
)

// CheckMachine refuses a machine that the baseline is not of. Two names that
// differ, or no volume in common, make another machine. A changed machine-id
// alone does not: it is a file of the guest, and changing it is a finding.
func (h *Header) CheckMachine(m filewatch.Machine) error {
	if h.Machine.Name != "" && m.Name != "" && h.Machine.Name != m.Name {
		return fmt.Errorf("%w: it is of %q, this is %q", ErrOtherMachine, h.Machine.Name, m.Name)
	}
	if len(h.Machine.Volumes) == 0 || len(m.Volumes) == 0 {
		return nil
	}
	for _, v := range m.Volumes {
		if slices.Contains(h.Machine.Volumes, v) {
			return nil
		}
	}
	return fmt.Errorf("%w: it has volumes %q, this one %q", ErrOtherMachine, h.Machine.Volumes, m.Volumes)
}

// CheckVersion refuses a version below the least acceptable one.
func (h *Header) CheckVersion(least uint64) error {
	if h.Version < least {
		return fmt.Errorf("%w: version %d, version %d has been used", ErrRollback, h.Version, least)
	}
	return nil
}

// ParseRules gives the rules the baseline was made with.
func (h *Header) ParseRules() (*filewatch.Rules, error) {
	if h.Rules == "" {
		return nil, nil
	}
	return filewatch.ParseRules([]byte(h.Rules))
}
