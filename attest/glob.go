package attest

// matchGlob matches a path against a glob: "*" and "?" stay within a directory,
// "**" crosses them. It falls back to the last star of each kind only, which is
// enough, so that a hostile name costs at most its length squared.
func matchGlob(glob, path string) bool {
	type star struct{ glob, path int } // where to go on: after the star, at this byte
	none := star{glob: -1}
	shallow, deep := none, none
	g, s := 0, 0
	for s < len(path) {
		switch {
		case g+1 < len(glob) && glob[g] == '*' && glob[g+1] == '*':
			g += 2
			deep, shallow = star{g, s}, none
		case g < len(glob) && glob[g] == '*':
			g++
			shallow = star{g, s}
		case g < len(glob) && (glob[g] == path[s] || glob[g] == '?' && path[s] != '/'):
			g, s = g+1, s+1
		case shallow != none && path[shallow.path] != '/':
			shallow.path++
			g, s = shallow.glob, shallow.path
		case deep != none:
			deep.path++
			g, s = deep.glob, deep.path
			shallow = none
		default:
			return false
		}
	}
	for g < len(glob) && glob[g] == '*' {
		g++
	}
	return g == len(glob)
}
