#!/bin/sh
# make-dirty.sh DIR NAME MKFS ARGS... : makes DIR/NAME.img.zst, a file system
# copied in the middle of writes, and DIR/NAME.txt, what the kernel shows after
# it replayed the journal of that copy. Needs root, a loop device and a kernel
# that mounts the family. FAST=1 keeps to what fast commits hold; DEEP=1 makes
# the deepest structures instead, and copies after the unmount; FEW=1 makes little, so
# that the log has few records.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=$1 name=$2
shift 2
work=$(mktemp -d)
trap 'umount "$work/mnt" 2>/dev/null || true; rm -rf "$work"' EXIT
(cd "$here" && go build -o "$work/kernel" ./kernel)
mkdir "$work/mnt"
truncate -s "${SIZE:-64M}" "$work/img"
TEST_DIR=1 TEST_DEV=1 QA_CHECK_FS=1 "$@" "$work/img" >/dev/null
mount -o "loop${OPTIONS:-}" "$work/img" "$work/mnt"
if [ -n "${DEEP:-}" ]; then
	"$work/kernel" deep "$work/mnt"
	umount "$work/mnt"
	cp --sparse=always "$work/img" "$work/copy"
else
	if [ -n "${FEW:-}" ]; then
		mkdir "$work/mnt/new"
		for i in 1 2 3; do echo "$i" > "$work/mnt/new/$i"; done
		sync "$work/mnt/new/1"
	else
		"$work/kernel" storm "$work/mnt"
	fi
	cp --sparse=always "$work/img" "$work/copy"
	umount "$work/mnt"
fi
zstd -q -19 -f "$work/copy" -o "$out/$name.img.zst"
mount -o loop "$work/copy" "$work/mnt"
umount "$work/mnt"
mount -o "loop,ro,${NORECOVERY:-noload}" "$work/copy" "$work/mnt"
"$work/kernel" list "$work/mnt" > "$out/$name.txt"
