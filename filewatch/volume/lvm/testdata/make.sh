#!/bin/sh
# Makes group.img.zst, segments.txt and wide.img.zst with the LVM2 tools: disks with a
# GPT whose two partitions are the physical volumes of one group. Needs root and two
# loop devices; no device-mapper (volumes are never activated).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
a= b=
trap 'losetup -d $a $b; rm -rf "$work"' EXIT
export LVM_SYSTEM_DIR="$work" LVM_SUPPRESS_FD_WARNINGS=1

# group NAME MIB makes a group on two physical volumes of so many MiB.
group() {
	[ -z "$a" ] || losetup -d "$a" "$b"
	rm -f "$work/disk"
	truncate -s $((2 + 2 * $2))M "$work/disk"
	printf 'label: gpt\nstart=2048,size=%d\nstart=%d,size=%d\n' $(($2 * 2048)) $((2048 + $2 * 2048)) $(($2 * 2048)) | sfdisk -q "$work/disk"
	a=$(losetup -f --show -o 1048576 --sizelimit $(($2 << 20)) "$work/disk")
	b=$(losetup -f --show -o $(((1 + $2) << 20)) --sizelimit $(($2 << 20)) "$work/disk")
	cat > "$work/lvm.conf" <<CONF
devices { filter = [ "a|^$a\$|", "a|^$b\$|", "r|.*|" ] use_devicesfile = 0 }
activation { udev_sync = 0 udev_rules = 0 monitoring = 0 }
global { use_lvmpolld = 0 }
CONF
	pvcreate -q -ff -y "$a" "$b"
	vgcreate -q -s 1m "$1" "$a" "$b"
}
new() { lvcreate -q --driverloaded n -an -Zn -Wn -y "$@"; }
extend() { lvextend -q --driverloaded n "$@"; }

group testvg 32
new -n linear -L 6m testvg
new -n striped -i 2 -I 64k -L 8m testvg
new -n second -L 6m testvg
extend -L +4m testvg/linear "$b"
lvs --driverloaded n --segments --noheadings --nosuffix --units k --separator ' ' -o lv_name,seg_start_pe,segtype,stripes,stripe_size,seg_pe_ranges testvg |
	sed "s|$a|pv0|g; s|$b|pv1|g" > "$here/segments.txt"
zstd -q -19 -f "$work/disk" -o "$here/group.img.zst"

# Volumes of 48 MiB, for file systems: one in stripes, one in two pieces.
group wide 56
new -n striped -i 2 -I 64k -L 48m wide
new -n linear -L 24m wide "$a"
extend -L +24m wide/linear "$b"
zstd -q -19 -f "$work/disk" -o "$here/wide.img.zst"
