package lab

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
)

// qemuRecipe is raised when the code that unpacks a QEMU changes.
const qemuRecipe = "2"

// QEMUSuites are the Debian suites whose QEMU [OtherQEMU] can unpack, the oldest
// first: 5.2, 7.2, 10.0 and the newest.
var QEMUSuites = []string{"bullseye", "bookworm", "trixie", "sid"}

// qemuPrograms are what the product and the lab run of QEMU.
var qemuPrograms = []string{"qemu-system-x86_64", "qemu-img", "qemu-nbd"}

// OtherQEMU returns a directory with the QEMU of a Debian suite: put first in PATH,
// it is what the lab and the product run. See [unpacked.dir] for how it is made.
func OtherQEMU(ctx context.Context, suite string, log io.Writer) (string, error) {
	if !slices.Contains(QEMUSuites, suite) {
		return "", fmt.Errorf("no QEMU of %q, want one of %s", suite, strings.Join(QEMUSuites, ", "))
	}
	return unpacked{"QEMU", qemuRecipe, []string{"qemu-system-x86", "qemu-utils"}, nil, qemuPrograms, qemuPlaces}.dir(ctx, suite, log)
}

// qemuPlaces tells QEMU where its modules and firmware are below root.
func qemuPlaces(root, program string) (environment, arguments []string) {
	environment = []string{"QEMU_MODULE_DIR=" + filepath.Join(root, "usr/lib/x86_64-linux-gnu/qemu")}
	if program == "qemu-system-x86_64" {
		arguments = []string{"-L", filepath.Join(root, "usr/share/qemu"), "-L", filepath.Join(root, "usr/share/seabios")}
	}
	return environment, arguments
}
