#!/bin/sh
# Regenerates the images here; see volumetest/make-dirty.sh.
set -eu
cd "$(dirname "$0")"
export NORECOVERY=norecovery SIZE=128M
make() { sh ../../volumetest/make-dirty.sh . "$@"; }
make v5 mkfs.xfs -q
make small-blocks mkfs.xfs -q -b size=1024 -n size=4096 -i nrext64=1 -m bigtime=1,rmapbt=1,reflink=1
make old-features mkfs.xfs -q -m bigtime=0,reflink=0,finobt=0,inobtcount=0 -i sparse=0,size=1024
FEW=1 make first-records mkfs.xfs -q
export DEEP=1
make deep mkfs.xfs -q -b size=1024 -i nrext64=1 -m bigtime=1,rmapbt=1,reflink=1
unset DEEP
sh ../../volumetest/make-series.sh . small-blocks mkfs.xfs -q -b size=1024 -n size=4096 -m rmapbt=1 -i nrext64=1 -l size=6m
# v4.img.zst, v4.txt and v4.series.zst were made so in a machine of the lab, by
# bookworm's kernel, which still mounts version 4:
# make v4 mkfs.xfs -q -m crc=0 -n ftype=0
# sh make-series.sh . v4 mkfs.xfs -q -m crc=0 -b size=1024 -n size=4096 -l size=4m
