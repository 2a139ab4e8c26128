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

// AIDE is an AIDE that is not installed.
type AIDE struct {
	Program string
	// Config is the directory with aide.conf and what it includes, of aide-common.
	Config string
}

// OtherAIDE returns the AIDE of a Debian suite, so that what compares with AIDE does
// not depend on the release that it runs on. See [unpacked.dir] for how it is made.
func OtherAIDE(ctx context.Context, suite string, log io.Writer) (AIDE, error) {
	if !slices.Contains(AIDESuites, suite) {
		return AIDE{}, fmt.Errorf("no AIDE of %q, want one of %s", suite, strings.Join(AIDESuites, ", "))
	}
	bin, err := unpacked{name: "AIDE", recipe: "2", packages: []string{"aide"}, alone: []string{"aide-common"}, programs: []string{"aide"}}.dir(ctx, suite, log)
	if err != nil {
		return AIDE{}, err
	}
	return AIDE{filepath.Join(bin, "aide"), filepath.Join(bin, "../root/usr/share/aide/config/aide")}, nil
}
