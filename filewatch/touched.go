package filewatch

// Touched is what of an earlier scan no longer holds.
type Touched struct {
	// Whole are the volumes of which nothing holds, each with the reason: every
	// object of them is visited again. What is the volume's identity.
	Whole []Gap
	// Inodes are, for each other volume, the objects that changed, went or came,
	// sorted.
	Inodes map[string][]uint64
}
