#!/bin/sh
# Regenerates the images here; see volumetest/make-dirty.sh.
set -eu
cd "$(dirname "$0")"
make() { sh ../../volumetest/make-dirty.sh . "$@"; }
make plain mke2fs -q -t ext4 -b 1024 -J size=4
make ext3 mke2fs -q -t ext3 -b 4096 -J size=4
OPTIONS=,data=journal make data-journal mke2fs -q -t ext4 -b 1024 -O ^metadata_csum,^64bit -J size=8
OPTIONS=,journal_checksum make checksum-v1 mke2fs -q -t ext4 -b 2048 -O ^metadata_csum -J size=8
FAST=1 make fast mke2fs -q -t ext4 -O fast_commit -b 1024 -J size=16
