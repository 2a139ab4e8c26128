package lab

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
)

// AIDESuites are the Debian suites whose AIDE [OtherAIDE] can unpack, the oldest
// first: 0.18.3, 0.19.1 and the newest.
var AIDESuites = []string{"bookworm", "trixie", "sid"}

// OtherAIDE returns the path of the AIDE of a Debian suite, so that what compares
// with AIDE does not depend on the release that it runs on. See [unpacked.dir] for
// how it is made.
func OtherAIDE(ctx context.Context, suite string, log io.Writer) (string, error) {
	if !slices.Contains(AIDESuites, suite) {
		return "", fmt.Errorf("no AIDE of %q, want one of %s", suite, strings.Join(AIDESuites, ", "))
	}
	dir, err := unpacked{name: "AIDE", recipe: "1", packages: []string{"aide"}, programs: []string{"aide"}}.dir(ctx, suite, log)
	return filepath.Join(dir, "aide"), err
}
