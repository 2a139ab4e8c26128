package baseline

import "github.com/zeebo/blake3"

// search looks which old contents of a log one content begins with. It costs one more
// pass over the content up to the longest of them, and one digest for each size.
type search struct {
	log    *movedLog
	packed string
	// left are those that end behind what went by, the shortest first: the log's own,
	// and those of logs of its name elsewhere, which may be the same.
	left  [2][]sized
	found []*prefix
}

// sized are the old contents of one size, by their digests.
type sized struct {
	size int64
	of   map[Digest][]*prefix
}

// search begins in a content of which the bytes are as packed says.
func (l *movedLog) search(packed string) search {
	s := search{log: l, packed: packed}
	for i, from := range l.both() {
		from.prepare()
		s.left[i] = from.bySize[packed]
	}
	return s
}

// next is the size of the shortest that is left, false for none up to end.
func (s *search) next(end int64) (size int64, ok bool) {
	for _, left := range s.left {
		if len(left) > 0 && left[0].size <= end && (!ok || left[0].size < size) {
			size, ok = left[0].size, true
		}
	}
	return size, ok
}

// goesOn looks for those that end in piece or at its end. sum has what came before,
// read bytes.
func (s *search) goesOn(sum *blake3.Hasher, read int64, piece []byte) {
	end := read + int64(len(piece))
	size, ok := s.next(end)
	if !ok {
		return
	}
	at := sum.Clone()
	for ; ok; size, ok = s.next(end) {
		if s.log.sums.Add(1) > maxSums {
			s.stop()
			return
		}
		at.Write(piece[:size-read])
		piece, read = piece[size-read:], size
		var got Digest
		at.Sum(got[:0])
		for i := range s.left {
			if !s.equal(i, size, &got) {
				s.stop()
				return
			}
		}
	}
}

// equal takes those of a list that have the size, and finds those with the digest. How
// many have the same is up to the guest as well: all but one count as digests do.
func (s *search) equal(list int, size int64, got *Digest) bool {
	left := s.left[list]
	if len(left) == 0 || left[0].size != size {
		return true
	}
	of := left[0].of[*got]
	if len(of) > 1 && s.log.sums.Add(int64(len(of)-1)) > maxSums {
		return false
	}
	s.left[list] = left[1:]
	for _, p := range of {
		if list == 0 || !s.log.ours[p] {
			s.found = append(s.found, p)
		}
	}
	return true
}

// stop ends the search, and notes what was not looked for.
func (s *search) stop() {
	for i, from := range s.log.both() {
		if len(s.left[i]) > 0 {
			from.notSearched(s.packed, s.left[i][0].size)
		}
	}
	s.left = [2][]sized{}
}
