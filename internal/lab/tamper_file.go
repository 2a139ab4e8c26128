package lab

import "context"

// fileTampers change the guest's files from inside, as an intruder would. Each
// forces what it did to the disk, where baselines look. They keep what they
// need for restoring on a memory file system, out of the baseline's sight.
//
// A restored file has its content, mode and mtime back, but not its ctime nor,
// when it had been deleted, its inode number: no system call sets those.
var fileTampers = []Tamper{
	{
		Name: "file-content", Check: "files",
		Doc: "replace bytes of /usr/bin/pinky, keeping its size, and put its times back",
		apply: script(`set -e
			cp -a /usr/bin/pinky /run/lab-file-content
			printf 'tampered' | dd of=/usr/bin/pinky bs=1 seek=4096 conv=notrunc,fsync status=none
			touch -r /run/lab-file-content /usr/bin/pinky
			sync -f /usr/bin/pinky`,
			`set -e
			[ -e /run/lab-file-content ] || exit 0
			cat /run/lab-file-content > /usr/bin/pinky
			touch -r /run/lab-file-content /usr/bin/pinky
			rm /run/lab-file-content
			sync -f /usr/bin/pinky`),
	},
	{
		Name: "file-setuid", Check: "files",
		Doc: "leave a setuid root shell in /usr/local/bin",
		apply: script(`set -e
			stat -c @%.9Y /usr/local/bin > /run/lab-file-setuid
			cp /bin/bash /usr/local/bin/helper
			chmod 4755 /usr/local/bin/helper
			touch -d "$(cat /run/lab-file-setuid)" /usr/local/bin
			sync -f /usr/local/bin`,
			`set -e
			[ -e /run/lab-file-setuid ] || exit 0
			rm -f /usr/local/bin/helper
			touch -d "$(cat /run/lab-file-setuid)" /usr/local/bin
			rm /run/lab-file-setuid
			sync -f /usr/local/bin`),
	},
	{
		Name: "file-deleted", Check: "files",
		Doc: "delete /etc/security/access.conf and put its directory's times back",
		apply: script(`set -e
			stat -c @%.9Y /etc/security > /run/lab-file-deleted-time
			cp -a /etc/security/access.conf /run/lab-file-deleted
			rm /etc/security/access.conf
			touch -d "$(cat /run/lab-file-deleted-time)" /etc/security
			sync -f /etc`,
			`set -e
			[ -e /run/lab-file-deleted ] || exit 0
			cp -a /run/lab-file-deleted /etc/security/access.conf
			touch -d "$(cat /run/lab-file-deleted-time)" /etc/security
			rm /run/lab-file-deleted /run/lab-file-deleted-time
			sync -f /etc`),
	},
}

// script runs one script in the guest and keeps another for restoring.
func script(do, undo string) func(context.Context, *change) error {
	return func(ctx context.Context, c *change) error { return c.shell(ctx, do, undo) }
}
