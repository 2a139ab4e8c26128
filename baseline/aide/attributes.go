package aide

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// attributes is a set of AIDE's attribute names.
type attributes map[string]bool

// words says which words of a rule's "check" an attribute of AIDE is. Every
// checksum but SHA-256 is BLAKE3's.
var words = map[string]string{
	"ftype": "type", "p": "mode", "i": "inode", "l": "link", "n": "nlink", "u": "uid", "g": "gid", "s": "size",
	"m": "mtime", "c": "ctime", "growing": "growing", "S": "growing", "compressed": "growing",
	"acl": "acl", "xattrs": "xattrs", "selinux": "selinux", "caps": "caps", "e2fsattrs": "flags",
	"md5": "blake3", "sha1": "blake3", "sha512": "blake3", "rmd160": "blake3", "tiger": "blake3", "crc32": "blake3",
	"crc32b": "blake3", "haval": "blake3", "whirlpool": "blake3", "gost": "blake3", "stribog256": "blake3",
	"stribog512": "blake3", "sha512_256": "blake3", "sha3_256": "blake3", "sha3_512": "blake3", "sha256": "sha256",
}

// unkept are attributes that rules do not have, with what that means.
var unkept = map[string]string{
	"a":   "access times are not kept",
	"b":   "block counts are not kept",
	"I":   "renames are always reported as renames",
	"ANF": "new files are reported",
	"ARF": "removed files are reported",

	"fstype": "types of file systems are not kept",
}

// builtin are the groups of aide.conf(5), "Predefined groups".
func builtin() map[string]attributes {
	x := []string{"acl", "xattrs", "selinux", "e2fsattrs", "caps"}
	base := []string{"p", "ftype", "i", "l", "n", "u", "g"}
	return map[string]attributes{
		"R": setOf(append(append([]string{"s", "m", "c", "md5"}, base...), x...)...),
		"L": setOf(append(slices.Clone(base), x...)...),
		">": setOf(append(append([]string{"s", "growing"}, base...), x...)...),
		"H": setOf("md5", "sha1", "sha256", "sha512"),
		"X": setOf(x...),
		"E": {},
	}
}

func setOf(names ...string) attributes {
	a := attributes{}
	for _, n := range names {
		a[n] = true
	}
	return a
}

// parse reads an expression of attributes and groups: "R+a-md5".
func (c *Config) parse(expression string) (attributes, error) {
	out := attributes{}
	add := true
	expression = strings.ReplaceAll(expression, " ", "")
	for len(expression) > 0 {
		switch expression[0] {
		case '+', '-':
			add, expression = expression[0] == '+', expression[1:]
			continue
		}
		end := strings.IndexAny(expression, "+-")
		if end < 0 {
			end = len(expression)
		}
		name := expression[:end]
		expression = expression[end:]
		set, ok := c.groups[name]
		if !ok {
			if words[name] == "" && unkept[name] == "" {
				return nil, fmt.Errorf("unknown attribute or group %q", name)
			}
			set = setOf(name)
		}
		for n := range set {
			if add {
				out[n] = true
			} else {
				delete(out, n)
			}
		}
	}
	return out, nil
}

// check is the list for a rule, and what of the set is not in it.
func (a attributes) check() (check, missing []string) {
	set := map[string]bool{}
	for name := range a {
		if w := words[name]; w != "" {
			set[w] = true
		} else {
			missing = append(missing, name)
		}
	}
	if set["growing"] {
		// A file that may grow changes these.
		for _, w := range []string{"size", "blake3", "sha256", "mtime", "ctime"} {
			delete(set, w)
		}
	}
	if set["xattrs"] { // all of them
		for _, w := range []string{"acl", "selinux", "caps"} {
			delete(set, w)
		}
	}
	slices.Sort(missing)
	return slices.Sorted(maps.Keys(set)), missing
}
