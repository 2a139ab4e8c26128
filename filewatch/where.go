package filewatch

// Where is where an object and its content are, seen by a scan that goes on from
// an interrupted one. It is valid as long as the object.
type Where interface {
	// Place is a digest of all that the file system says of the object, but its
	// names and its access time, and of the runs of blocks that its content is on.
	Place() [32]byte
	// Untouched says that what these blocks hold certainly is what they held at
	// each moment that the scan goes on from.
	Untouched() bool
}
