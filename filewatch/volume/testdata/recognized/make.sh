#!/bin/sh
# Regenerates the images here with each family's own tools, and blkid.txt with
# what libblkid (util-linux) says of them. Debian packages: btrfs-progs ntfs-3g
# exfatprogs cryptsetup-bin squashfs-tools f2fs-tools genisoimage erofs-utils
# bcache-tools nilfs-tools jfsutils reiserfsprogs udftools ocfs2-tools util-linux
# util-linux-extra. Needs root
# and a loop device for bcache. Of encrypted and NTFS volumes only the beginning
# is kept.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
mk() { truncate -s "$2" "$1"; }
mkdir tree
echo x > tree/x
mk btrfs 128M; mkfs.btrfs -q btrfs
mk ntfs 16M; mkntfs -q -F -f ntfs
mk exfat 16M; mkfs.exfat exfat
mk luks1 16M; echo pass | cryptsetup luksFormat -q --type luks1 --pbkdf-force-iterations 1000 luks1 -
mk luks2 32M; echo pass | cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 luks2 -
mksquashfs tree squashfs -quiet -no-progress
mk f2fs 64M; mkfs.f2fs -q f2fs
genisoimage -quiet -o iso9660 tree
mkfs.erofs erofs tree
mk bcache 16M; loop=$(losetup -f --show bcache); make-bcache -B "$loop"; losetup -d "$loop"
mk nilfs2 160M; mkfs.nilfs2 -q nilfs2
mk jfs 32M; mkfs.jfs -q jfs
mk reiserfs 64M; mkfs.reiserfs -ff -q reiserfs
mk udf 16M; mkudffs udf
mk swap 16M; mkswap -q swap
mkfs.cramfs tree cramfs
mk verity 4M; mk data 4M; veritysetup format data verity
rm data
mk ocfs2 40M; yes | mkfs.ocfs2 -q -b 1K -C 4K -N 1 -J size=4M -M local -F ocfs2
mk minix1 4M; mkfs.minix -1 minix1
mk minix2 4M; mkfs.minix -2 minix2
mk bfs 4M; mkfs.bfs bfs
rm -f "$here"/*.img.zst
for f in btrfs ntfs exfat luks1 luks2 squashfs f2fs iso9660 erofs bcache nilfs2 jfs reiserfs udf swap cramfs verity ocfs2 minix1 minix2 bfs; do
	echo "$f $(blkid -p -s TYPE -o value $f) $(blkid -p -s UUID -o value $f)"
	case $f in luks*) truncate -s 4096 $f; truncate -s 16M $f ;; ntfs) truncate -s 64K $f; truncate -s 16M $f ;; esac
	zstd -q -19 -f $f -o "$here/$f.img.zst"
done > "$here/blkid.txt"
