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

// backedUp refuses to look at the block nodes while another program has QEMU back a
// disk up. QEMU 7.2 was seen to die of such a look, once, when a backup of libvirt's had
// just come to its end: in cbw_refresh_filename (block/copy-before-write.c), of a node
// for copying that had nothing below it any more. A backup that begins between the two
// looks is missed, and would have to end there as well.
func backedUp(jobs []job) error {
	for _, j := range jobs {
		if j.Type == "backup" && j.Status != "concluded" && !strings.HasPrefix(j.ID, namePrefix) {
			return fmt.Errorf("%w: job %q backs a disk up", ErrInUse, j.ID)
		}
	}
	return nil
}
