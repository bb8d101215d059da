#!/bin/sh
# Installs the peers: Debian's, and those built from bench/tools/go.mod into the directory given.
set -eu
out=$(mkdir -p "$1" && cd "$1" && pwd)
missing=
for p in podman buildah crun runc skopeo docker.io docker-registry containerd busybox-static e2fsprogs util-linux netavark aardvark-dns nftables iptables containernetworking-plugins mmdebstrap; do
	dpkg-query -W -f '${db:Status-Status}\n' "$p" 2>/dev/null | grep -qx installed || missing="$missing $p"
done
if [ -n "$missing" ]; then
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	# No daemon may start: benchmarks start their own.
	printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d
	apt-get install -y -qq --no-install-recommends $missing || { rm -f /usr/sbin/policy-rc.d; exit 1; }
	rm -f /usr/sbin/policy-rc.d
fi
if [ ! -e "$out/debian-gcc.tar" ]; then
	mmdebstrap --quiet --variant=essential --include=gcc,libc6-dev,make bookworm "$out/debian-gcc.new.tar"
	mv "$out/debian-gcc.new.tar" "$out/debian-gcc.tar"
fi
if [ ! -e "$out/lua.tar.gz" ]; then # its source, as Debian has it
	apt=$(mktemp -d) && mkdir -p "$apt/lists/partial"
	echo 'deb-src http://deb.debian.org/debian bookworm main' >"$apt/list"
	for command in update 'source --download-only lua5.4'; do
		(cd "$apt" && apt-get -qq -o Dir::Etc::SourceList="$apt/list" -o Dir::Etc::SourceParts=/dev/null -o Dir::State::Lists="$apt/lists" $command)
	done
	mv "$apt"/lua5.4_*.orig.tar.gz "$out/lua.tar.gz"
	rm -r "$apt"
fi
cd "$(dirname "$0")/tools"
[ -x "$out/nerdctl" ] || (cd nerdctl && CGO_ENABLED=0 go build -ldflags='-s -w' -o "$out/" github.com/containerd/nerdctl/v2/cmd/nerdctl)
for tool in $(go list -f '{{.ImportPath}}' tool); do
	[ -x "$out/$(basename "$tool")" ] || CGO_ENABLED=0 go build -ldflags='-s -w' -o "$out/" "$tool"
done
[ -x "$out/versitygw" ] || cp "$(cd ../../test/s3 && go tool -n versitygw)" "$out/"
