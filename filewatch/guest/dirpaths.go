package guest

import "strings"

// Bounds on paths.
const (
	maxDepth = 2048
	maxPath  = 64 << 10
	maxCache = 1 << 15 // directories
)

// dirPaths finds the paths of directories.
type dirPaths struct {
	root  uint64
	point string
	cache map[uint64]string
	// name gives the entry that counts of those that name a directory.
	name func(inode uint64) (parent uint64, name string, ok bool)
}

func newDirPaths(root uint64, point string, name func(inode uint64) (uint64, string, bool)) dirPaths {
	return dirPaths{root: root, point: point, cache: map[uint64]string{}, name: name}
}

// of is the path of a directory; false when it leads nowhere, in circles or
// too deep.
func (d *dirPaths) of(inode uint64, depth int) (string, bool) {
	if inode == d.root {
		return d.point, true
	}
	if path, ok := d.cache[inode]; ok {
		return path, path != ""
	}
	path, ok := "", false
	if parent, name, named := d.name(inode); named && depth < maxDepth {
		if path, ok = d.of(parent, depth+1); ok {
			path = join(path, name)
		}
		if len(path) > maxPath {
			path, ok = "", false
		}
	}
	if len(d.cache) >= maxCache {
		clear(d.cache)
	}
	d.cache[inode] = path
	return path, ok
}

func join(dir, name string) string {
	if strings.HasSuffix(dir, "/") {
		return dir + name
	}
	return dir + "/" + name
}
