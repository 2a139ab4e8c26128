package filewatch

import "errors"

// What keeps an object from being measured. Errors of the readers wrap one of
// these; anything else is an I/O error of the disk itself.
var (
	// ErrCorrupt marks structures that contradict themselves or their checksums.
	ErrCorrupt = errors.New("corrupt")
	// ErrNotSupported marks a feature that is recognized but not read here.
	ErrNotSupported = errors.New("not supported")
	// ErrEncrypted marks content or names that only the guest can decrypt.
	ErrEncrypted = errors.New("encrypted")
)
