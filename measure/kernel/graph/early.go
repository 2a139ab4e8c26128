package graph

// maxNested bounds how many objects are visited on the way to each other: what
// is further away waits for its turn.
const maxNested = 32

// early visits an object that was just queued, the last one, at once, and forgets
// it where it leads to nothing new: of a large target, which has millions of
// inodes, dentries and areas of processes, only those are kept that something was
// reached by. An object with pointers to functions is kept: it may have to be
// found again (see collect). The other ones are not looked for.
func (w *walker) early(i int32) {
	if w.nested >= maxNested || w.nodes[i].typ.codes > 0 {
		return
	}
	if w.visits(&w.nodes[i]) {
		at, held, noted := w.at, w.held, w.noted
		w.nested++
		w.nodes[i].done = true
		w.tick()
		w.object(i)
		w.nested--
		w.at, w.held = at, held
		if w.noted != noted {
			return
		}
	}
	if int(i) == len(w.nodes)-1 {
		delete(w.named, i)
		w.nodes = w.nodes[:i]
	}
}
