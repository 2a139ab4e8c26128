#!/bin/sh
# make-series.sh DIR NAME MKFS ARGS... : makes DIR/NAME.series.zst, nine copies of one
# XFS image that three processes write to without end. One is made while it is
# mounted, the next after it was taken away as when power goes, the next after an
# unmount, and so on; the kernel recovers it in between. CLEAN=1 makes all of them
# after an unmount. Needs root, loop devices, xfs_io and a kernel that mounts the
# family; with version 4, Debian bookworm's.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
out=$1 name=$2
shift 2
work=$(mktemp -d)
trap 'umount "$work/mnt" || true; umount "$work/outer" || true; rm -rf "$work"' EXIT
kernel=${KERNEL:-$work/kernel}
[ -n "${KERNEL:-}" ] || (cd "$here" && go build -o "$kernel" ./kernel)
mkdir "$work/outer" "$work/mnt"
# A clone is a copy at one moment also of what is mounted: on a file system that can
# make one.
truncate -s 4G "$work/outer.img"
mkfs.xfs -q "$work/outer.img"
mount -o loop "$work/outer.img" "$work/outer"
truncate -s 48M "$work/outer/img"
TEST_DIR=1 TEST_DEV=1 QA_CHECK_FS=1 "$@" "$work/outer/img" >/dev/null
mount -o loop "$work/outer/img" "$work/mnt"
for round in 1 2 3 4 5 6 7 8 9; do
	busy=
	for _ in 1 2 3; do
		"$kernel" busy "$work/mnt" >/dev/null 2>&1 &
		busy="$busy $!"
	done
	sleep 0.1
	kind=$((round % 3))
	[ -z "${CLEAN:-}" ] || kind=0
	[ $kind != 1 ] || cp --reflink=always "$work/outer/img" "$work/outer/$round"
	[ $kind != 2 ] || xfs_io -x -c shutdown "$work/mnt"
	kill -9 $busy
	wait
	if [ $kind != 1 ]; then
		umount "$work/mnt"
		cp --reflink=always "$work/outer/img" "$work/outer/$round"
		mount -o loop "$work/outer/img" "$work/mnt"
	fi
done
(cd "$work/outer" && cat 1 2 3 4 5 6 7 8 9) | zstd -q -19 --long=27 -o "$out/$name.series.zst" -f
