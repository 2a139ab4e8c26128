package aide

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// release is the AIDE whose meaning lines have.
func (c *Config) release() Release { return cmp.Or(c.options.Release, Release019) }

// predefined are the macros that AIDE has of itself; a definition goes before them.
func (c *Config) predefined(name string) (string, bool) {
	switch {
	case name == "HOSTNAME":
		return c.options.Hostname, c.options.Hostname != ""
	case name == "AIDE_VERSION" && c.release() != Release018:
		return string(c.release()), true
	}
	return "", false
}

// versionGE is "LEFT version_ge RIGHT", which came with AIDE 0.19.
func (c *Config) versionGE(left, right string) (bool, error) {
	if c.release() == Release018 {
		return false, fmt.Errorf("AIDE %s has no condition %q", c.release(), "version_ge")
	}
	l, err := version(left)
	if err != nil {
		return false, err
	}
	r, err := version(right)
	if err != nil {
		return false, err
	}
	return cmp.Or(cmp.Compare(l[0], r[0]), cmp.Compare(l[1], r[1]), cmp.Compare(l[2], r[2])) >= 0, nil
}

// version reads "MAJOR.MINOR.PATCH"; what is missing is 0, and what follows the
// digits of the last part is left out.
func version(text string) (v [3]int, err error) {
	rest := text
	for i := range v {
		digits := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
		if v[i], err = strconv.Atoi(digits); err != nil {
			return v, fmt.Errorf("version %q: want MAJOR.MINOR.PATCH", text)
		}
		var more bool
		if rest, more = strings.CutPrefix(rest[len(digits):], "."); !more || rest == "" {
			break
		}
	}
	return v, nil
}
