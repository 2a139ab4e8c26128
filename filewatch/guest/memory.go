package guest

import (
	"fmt"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/internal/keyed"
	"github.com/plumbline-sec/plumbline/internal/sorted"
)

// Memory is what is kept of a scan so that a later one, told which blocks of the
// disks changed, looks at what those belong to and at nothing else: for each
// object where its bytes are (the reverse map from blocks to owners) and a digest
// of its metadata, every directory entry, and what the file system's reader keeps
// (volume.Follower).
//
// The bulk of it, the base of each volume, is in files of a directory, of which
// only the blocks that are asked for are read. What later scans found lies over it
// until it has grown so much that a new base is written.
//
// It holds for the volumes, mount points and disks it was made of. Whoever stores
// it sees to it that it comes back as it was; damage of the files is [ErrMemory].
type Memory struct {
	dir     sorted.Dir
	volumes []*volumeMemory
	// fold is how much may lie over a base; default: see volumeMemory.full.
	fold int
}

// ErrMemory: what is kept of the last scan is damaged or missing.
var ErrMemory = fmt.Errorf("memory of the last scan: %w", filewatch.ErrCorrupt)

func memoryError(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %w", ErrMemory, err)
}

// volumeMemory is the memory of one volume.
type volumeMemory struct {
	id          string // UUID
	kind, point string
	layout      string // see volume.Volume.Layout
	size        int64
	// clean says that no part of it was unreadable.
	clean bool
	// refused says why the volume cannot be followed; then the rest is empty.
	refused string
	marks   []byte
	// key is that of the digests in the base and over it.
	key     keyed.Key
	root    uint64     // directory
	base    sorted.Ref // see baseWriter
	objects int        // in the base
	over    *overlay
}

func newVolumeMemory(m Mount) *volumeMemory {
	v := m.Volume
	return &volumeMemory{key: keyed.NewKey(), id: v.UUID, kind: v.Type, point: m.Point, layout: v.Layout(), size: v.Size, root: v.Root(), over: newOverlay()}
}

// placer takes down objects of the volume.
func (m *volumeMemory) placer() (*placer, error) {
	digest, err := keyed.New(m.key)
	return &placer{digest: digest}, err
}

// at says that two memories are of the same volume in the same place.
func (m *volumeMemory) at(o *volumeMemory) bool {
	return m.id == o.id && m.kind == o.kind && m.point == o.point && m.layout == o.layout && m.size == o.size
}

// refuse keeps the first reason why the volume cannot be followed.
func (m *volumeMemory) refuse(reason string) {
	if m.refused == "" {
		m.refused = reason
	}
	m.marks, m.base, m.over = nil, sorted.Ref{}, newOverlay()
}

// full says that so much lies over the base that a new one is cheaper to carry on.
func (m *volumeMemory) full(fold int) bool {
	if fold == 0 {
		fold = min(max(2048, m.objects/8), 1<<16)
	}
	return len(m.over.places) > fold
}

// Keep is Fold, and encodes the memory.
func (m *Memory) Keep() (encoded []byte, files []string, err error) {
	if files, err = m.Fold(); err != nil {
		return nil, nil, err
	}
	return m.append(nil), files, nil
}

// Fold writes new bases where too much lies over the old ones, and names the files
// of the directory that the memory needs.
func (m *Memory) Fold() (files []string, err error) {
	for _, v := range m.volumes {
		if v.refused == "" && v.full(m.fold) {
			if err := v.rebase(m.dir); err != nil {
				return nil, fmt.Errorf("store the memory of a volume: %w", err)
			}
		}
		if v.base.Name != "" {
			files = append(files, v.base.Name)
		}
	}
	return files, nil
}
