#!/bin/sh
# Takes every figure against the peers and writes docs/benchmarks.md.
set -eu
cd "$(dirname "$0")/.."
if [ "${1-}" != --inside ]; then
	bench/setup.sh .cache/peers
	exec unshare -m --propagation private "$0" --inside "$@"
fi
shift
# crun 1.8 refuses a host with both versions of control groups; here it sees the first only.
if [ -d /sys/fs/cgroup/unified ]; then
	mount -t tmpfs tmpfs /mnt
	for d in /sys/fs/cgroup/*/; do
		name=$(basename "$d")
		[ "$name" = unified ] || { mkdir "/mnt/$name" && mount --bind "$d" "/mnt/$name"; }
	done
	mount --move /mnt /sys/fs/cgroup
fi
CGO_ENABLED=0 exec go run ./bench -teu bin/teu -peers .cache/peers -write docs/benchmarks.md "$@"
