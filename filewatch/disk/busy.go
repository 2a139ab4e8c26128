package disk

import (
	"errors"
	"fmt"
	"strings"

	"github.com/plumbline-sec/plumbline/internal/qmp"
)

// ErrInUse: something that another program has QEMU do with the disks (a backup, a
// copy, a merge of snapshots) leaves no room for a snapshot of ours until it is done.
var ErrInUse = errors.New("QEMU is busy with the disks for another program")

// inUse marks QEMU's refusals that end by themselves. Their class is that of all
// refusals, so the words tell (QEMU 7.2: blockdev-nbd.c, nbd_server_start; block.c,
// bdrv_op_is_blocked and the conflicts of permissions; blockjob.c, block_job_create).
func inUse(err error) error {
	var refusal *qmp.Error
	if !errors.As(err, &refusal) {
		return err
	}
	for _, words := range []string{"NBD server already running", "is busy", "is in use by", "onflicts with use by", "does not allow"} {
		if strings.Contains(refusal.Desc, words) {
			return fmt.Errorf("%w: %w", ErrInUse, err)
		}
	}
	return err
}
