#!/bin/sh
# Installs the Debian packages the tests need, if any is missing, and builds the BuildKit that
# images are compared with, crane and buildx.
set -eu
packages="docker.io busybox-static mmdebstrap skopeo podman buildah crun runc netavark aardvark-dns
	uidmap e2fsprogs iproute2 nftables curl jq git procps attr libcap2-bin bzip2 xz-utils groff-base openssh-client openssl systemd"
command -v npm >/dev/null || packages="$packages nodejs npm"
missing=
for p in $packages; do
	dpkg-query -W -f '${db:Status-Status}\n' "$p" 2>/dev/null | grep -qx installed || missing="$missing $p"
done
if [ -n "$missing" ]; then
	if [ "$(id -u)" != 0 ]; then
		echo "setup: not root, cannot install:$missing" >&2
		exit 1
	fi
	echo "setup: installing$missing"
	export DEBIAN_FRONTEND=noninteractive
	{ apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing; } >/tmp/teu-setup.log 2>&1 || {
		tail -20 /tmp/teu-setup.log >&2
		exit 1
	}
fi
cd "$(dirname "$0")/.."
mkdir -p .cache/peers
cmp -s bench/tools/go.mod .cache/peers/go.mod || rm -f .cache/peers/buildkitd .cache/peers/buildctl .cache/peers/crane
for tool in moby/buildkit/cmd/buildkitd moby/buildkit/cmd/buildctl google/go-containerregistry/cmd/crane; do
	[ -x ".cache/peers/${tool##*/}" ] && continue
	echo "setup: building ${tool##*/}"
	(cd bench/tools && CGO_ENABLED=0 go build -ldflags='-s -w' -o ../../.cache/peers/ "github.com/$tool")
done
cp bench/tools/go.mod .cache/peers/
if ! cmp -s test/clients/buildx/go.mod .cache/peers/buildx.mod || [ ! -x .cache/peers/buildx ]; then
	echo "setup: building buildx"
	(cd test/clients/buildx && version=$(go list -m -f '{{.Version}}' github.com/docker/buildx) && # compose looks at it
		CGO_ENABLED=0 go build -ldflags="-s -w -X github.com/docker/buildx/version.Version=$version" -o ../../../.cache/peers/ github.com/docker/buildx/cmd/buildx)
	cp test/clients/buildx/go.mod .cache/peers/buildx.mod
fi
# A client of another language.
if ! cmp -s test/clients/dockerode/package-lock.json .cache/dockerode/package-lock.json; then
	echo "setup: installing dockerode"
	rm -rf .cache/dockerode .cache/dockerode.new
	mkdir .cache/dockerode.new
	cp test/clients/dockerode/package*.json .cache/dockerode.new/
	(cd .cache/dockerode.new && npm ci --ignore-scripts --omit=optional --no-audit --no-fund --loglevel=error)
	mv .cache/dockerode.new .cache/dockerode
fi
# unpack DIRECTORY PACKAGE... puts the files of packages below .cache. Daemons are not installed: they would start
# by themselves.
unpack() {
	dir=.cache/$1
	shift
	echo "setup: unpacking $1"
	rm -rf "$dir" "$dir.new"
	mkdir "$dir.new"
	download() { (cd "$dir.new" && apt-get download -qq "$@"); }
	{ download "$@" || { apt-get update -qq && download "$@"; }; } >/tmp/teu-setup.log 2>&1 || {
		tail -20 /tmp/teu-setup.log >&2
		exit 1
	}
	for deb in "$dir.new"/*.deb; do dpkg-deb -x "$deb" "$dir.new"; done
	mv "$dir.new" "$dir"
}
[ -x .cache/sshd/usr/sbin/sshd ] || unpack sshd openssh-server libwrap0
[ -e .cache/rsyslog/usr/lib/*/rsyslog/lmnsd_ossl.so ] || unpack rsyslog rsyslog rsyslog-openssl libestr0 libfastjson4
