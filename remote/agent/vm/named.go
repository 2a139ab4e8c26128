package vm

import (
	"context"
	"io"

	"github.com/plumbline-sec/plumbline/filewatch"
	"github.com/plumbline-sec/plumbline/filewatch/guest"
)

// namedGuest gives a guest's machine a name.
type namedGuest struct {
	*guest.Guest
	name string
}

// Machine implements baseline.Source.
func (n namedGuest) Machine() filewatch.Machine {
	m := n.Guest.Machine()
	m.Name = n.name
	return m
}

// namedFollowing is namedGuest for baseline.Follower.
type namedFollowing struct {
	namedGuest
	f *guest.Following
}

// Touched implements baseline.Follower.
func (n namedFollowing) Touched() *filewatch.Touched { return n.f.Touched() }

// ScanTouched implements baseline.Follower.
func (n namedFollowing) ScanTouched(ctx context.Context, want func(*filewatch.Object, []string, bool, filewatch.Where) bool,
	visit func(*filewatch.Object, []string, filewatch.Where, io.Reader, error) error) ([]filewatch.Gap, error) {
	return n.f.ScanTouched(ctx, want, visit)
}
