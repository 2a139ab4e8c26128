package kernel

import "errors"

// ErrOtherBuild means that a file belongs to another build than the one asked
// for.
var ErrOtherBuild = errors.New("image is of another build")

// Image is a kernel as its file says it should be.
type Image struct {
	BuildID string
	Symbols *Symbols // at the addresses it was linked for
}

// ModuleFile is a module as its file says it should be.
type ModuleFile struct {
	Name    string
	BuildID string
}
