package twinsha

// pieces is the stream between two of its pieces.
type pieces struct {
	part [blockSize]byte // the beginning of a block
	n    int
	size uint64
}

// Begin starts a stream. What is queued is hashed beside it.
func (t *Twin) Begin() {
	t.finishFirst()
	t.stream = pieces{}
	t.lanes[0].state = initial
}

// finishFirst ends what the first lane is at, so that the stream can have it.
func (t *Twin) finishFirst() {
	for l := &t.lanes[0]; l.blocks() > 0; {
		l.alone(l.blocks())
	}
}

// Write hashes the next piece of the stream; it does not keep it.
func (t *Twin) Write(piece []byte) {
	s := &t.stream
	s.size += uint64(len(piece))
	if s.n > 0 {
		n := copy(s.part[s.n:], piece)
		s.n, piece = s.n+n, piece[n:]
		if s.n < blockSize {
			return
		}
		t.beside(s.part[:])
		s.n = 0
	}
	whole := len(piece) &^ (blockSize - 1)
	t.beside(piece[:whole])
	s.n = copy(s.part[:], piece[whole:])
}

// beside hashes whole blocks of the stream in the first lane and what is queued
// in the second.
func (t *Twin) beside(blocks []byte) {
	a, b := &t.lanes[0], &t.lanes[1]
	a.left, a.pad, a.busy = blocks, nil, false
	for len(a.left) > 0 {
		t.fill(b)
		n, m := len(a.left)/blockSize, b.blocks()
		if m == 0 {
			a.alone(n)
			return
		}
		n = min(n, m)
		blocks2(&a.state, &b.state, &a.left[0], &b.left[0], n)
		a.left, b.left = a.left[n*blockSize:], b.left[n*blockSize:]
	}
}

// End gives the digest of the stream.
func (t *Twin) End(sum *[Size]byte) {
	t.lanes[0].start(t.stream.part[:t.stream.n], t.stream.size, sum)
	t.finishFirst()
}
