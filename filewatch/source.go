package filewatch

import "context"

// Source sees operations as they happen. Events blocks, calls emit for each
// event in order and numbers them per target without a gap; an event that was
// lost keeps its number, so that whoever reads sees the gap. It returns when ctx
// ends, when emit returns an error (that error), or when the source broke.
type Source interface {
	Events(ctx context.Context, emit func(*Event) error) error
}

// Gap is a part of a tree that could not be seen at all.
type Gap struct {
	Volume string `json:"volume,omitempty"`
	What   string `json:"what"` // a path, a partition, an inode
	Reason string `json:"reason"`
}

// Machine says whose files they are, so that one machine's baseline is not used
// for another's.
type Machine struct {
	// Name is the target's name where someone gave it one.
	Name string `json:"name,omitempty"`
	// MachineID is the content of the guest's /etc/machine-id.
	MachineID string `json:"machine_id,omitempty"`
	// Volumes are the identities of the volumes read, sorted.
	Volumes []string `json:"volumes"`
	// Places are where the volumes whose files were read lie, by volume.
	Places []Place `json:"places,omitempty"`
}

// Place is where a volume lies on its disks: its runs in the order of its bytes, of
// a striped one those of each leg. Which disk is left out: that changes with the
// machine's configuration.
type Place struct {
	Volume string `json:"volume"`
	Runs   []Run  `json:"runs"`
}

// Run is a stretch of a disk, in bytes.
type Run struct {
	Offset int64 `json:"offset"`
	Length int64 `json:"length"`
}
