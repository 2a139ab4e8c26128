#!/bin/sh
# Makes group.img.zst and segments.txt with the LVM2 tools: a disk with a GPT
# whose two partitions are the physical volumes of one group. Needs root and two
# loop devices; no device-mapper (volumes are never activated).
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
cd "$work"
truncate -s 66M disk
printf 'label: gpt\nstart=2048,size=65536\nstart=67584,size=65536\n' | sfdisk -q disk
a=$(losetup -f --show -o 1048576 --sizelimit 33554432 disk)
b=$(losetup -f --show -o 34603008 --sizelimit 33554432 disk)
trap 'losetup -d $a $b; rm -rf "$work"' EXIT
mkdir conf
cat > conf/lvm.conf <<CONF
devices { filter = [ "a|^$a\$|", "a|^$b\$|", "r|.*|" ] use_devicesfile = 0 }
activation { udev_sync = 0 udev_rules = 0 monitoring = 0 }
global { use_lvmpolld = 0 }
CONF
export LVM_SYSTEM_DIR="$work/conf" LVM_SUPPRESS_FD_WARNINGS=1
pvcreate -q -ff -y "$a" "$b"
vgcreate -q -s 1m testvg "$a" "$b"
new() { lvcreate -q --driverloaded n -an -Zn -Wn -y "$@" testvg; }
new -n linear -L 6m
new -n striped -i 2 -I 64k -L 8m
new -n second -L 6m
lvextend -q --driverloaded n -L +4m testvg/linear "$b"
lvs --driverloaded n --segments --noheadings --nosuffix --units k --separator ' ' -o lv_name,seg_start_pe,segtype,stripes,stripe_size,seg_pe_ranges testvg |
	sed "s|$a|pv0|g; s|$b|pv1|g" > "$here/segments.txt"
zstd -q -19 -f disk -o "$here/group.img.zst"
cat "$here/segments.txt"
