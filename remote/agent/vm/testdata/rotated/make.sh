#!/bin/sh
# make.sh makes logrotate.series.zst beside it: seven copies of one ext4 image whose
# logs Debian's logrotate (3.21.0) moved aside in between, each log in another way, and
# the last one after somebody altered and cut what was left of some. One is made after an
# unmount, the next while it is mounted. Needs root, loop devices, logrotate, xz and zstd.
set -eu
out=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'umount "$work/mnt" || true; rm -rf "$work"' EXIT
truncate -s 48M "$work/img"
mkfs.ext4 -q -U 6f1c3a2e-0000-4000-8000-000000000002 "$work/img"
mkdir "$work/mnt" "$work/pictures"
mount -o loop "$work/img" "$work/mnt"
log=$work/mnt/var/log
mkdir -p "$log"
chmod 755 "$work/mnt" "$work/mnt/var" "$log"

# The words that are the same for all are those of Debian's packages.
{
	echo "weekly
rotate 8
missingok
notifempty
create 0640 root adm"
	way() { printf '%s/%s.log {\n%s\n}\n' "$log" "$1" "$2"; }
	way create ''
	way compress 'compress'
	way delay 'compress
delaycompress'
	way copytruncate 'copytruncate'
	way copydelay 'copytruncate
compress
delaycompress'
	way copycompress 'copytruncate
compress'
	# More than one a day have the seconds in their names.
	way dateext 'dateext
dateformat -%Y%m%d-%s'
	way datecopy 'dateext
dateformat -%Y%m%d-%s
copytruncate
compress'
	way xz 'compress
compresscmd /usr/bin/xz
compressext .xz'
	way xz9 'compress
copytruncate
compresscmd /usr/bin/xz
compressext .xz
compressoptions -9'
	way zstd 'compress
delaycompress
compresscmd /usr/bin/zstd
compressext .zst
compressoptions -q --rm'
	way bzip2 'compress
compresscmd /bin/bzip2
compressext .bz2
uncompresscmd /bin/bunzip2'
} >"$work/conf"

lines=0
write() {
	for f in "$log"/*.log; do
		for _ in $(seq 40); do
			lines=$((lines + 1))
			echo "Nov 26 12:00:00 host app[$lines]: something happened in $f, number $lines" >>"$f"
		done
	done
}
for f in create compress delay copytruncate copydelay copycompress dateext datecopy xz xz9 zstd bzip2; do
	: >"$log/$f.log"
	chown root:adm "$log/$f.log"
	chmod 640 "$log/$f.log"
done
rotate() {
	sleep 1.1
	logrotate -f -s "$work/state" "$work/conf"
}
picture() {
	sync
	[ $(($1 % 2)) = 1 ] || umount "$work/mnt"
	cp "$work/img" "$work/pictures/$1"
	[ $(($1 % 2)) = 1 ] || mount -o loop "$work/img" "$work/mnt"
}
write
rotate
write
picture 0
for n in 1 2 3 4 5; do
	write
	rotate
	write
	picture "$n"
done
# What an attacker would do: a line altered in what was copied, in what was packed, and
# a log cut without a rotation.
alter() {
	sed -i 's/happened/occurred/' "$1"
	chown root:adm "$1"
	chmod 640 "$1"
}
alter "$log/copytruncate.log.5"
gunzip "$log/compress.log.5.gz"
alter "$log/compress.log.5"
gzip "$log/compress.log.5"
: >"$log/copydelay.log"
picture 6
ls -li "$log"
(cd "$work/pictures" && cat 0 1 2 3 4 5 6) | zstd -q -19 --long=27 -o "$out/logrotate.series.zst" -f
