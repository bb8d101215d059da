#!/bin/sh
# Takes examples/hello through its whole life: build, push, pull, run, ask, clean up.
# usage: quickstart.sh PATH-OF-TEU     (as root)
set -eu
PATH=$(dirname "$(realpath "$1")"):$PATH
cd "$(dirname "$0")"
if [ "$(id -u)" != 0 ]; then
	echo "quickstart: containers need root here; try: sudo make quickstart" >&2
	exit 1
fi

work=$(mktemp -d)
export TEU_ROOT="$work/store" TEU_RUN_ROOT="$work/run"
registry_pid=
clean() {
	status=$?
	set +e
	teu rm -f hello >/dev/null 2>&1
	[ -z "$registry_pid" ] || { kill "$registry_pid"; wait "$registry_pid"; } 2>/dev/null
	teu system reset --force >/dev/null 2>&1
	rm -rf "$work" hello
	[ "$status" = 0 ] || echo "quickstart: something above went wrong" >&2
	exit "$status"
}
trap clean EXIT
trap 'exit 130' INT TERM
say() { printf '\n\033[1m%s\033[0m\n' "\$ $*"; "$@"; }

CGO_ENABLED=0 go build -trimpath -ldflags='-s -w' -o hello .

teu serve registry --addr 127.0.0.1:0 --root "$work/registry" >"$work/registry.log" 2>&1 &
registry_pid=$!
address=
for _ in $(seq 100); do
	address=$(sed -n 's/.*serving registry on \([0-9.:]*\).*/\1/p' "$work/registry.log")
	[ -z "$address" ] || break
	sleep 0.05
done
[ -n "$address" ] || { cat "$work/registry.log" >&2; exit 1; }
image="$address/hello:1"

say teu build -t "$image" .
say teu push "$image"
say teu system prune --all --force
say teu pull "$image"
say teu run -d --name hello -p 127.0.0.1:0:8080 "$image"
port=$(teu port hello 8080)
echo
for _ in $(seq 100); do
	if answer=$(curl -fsS "http://$port/" 2>/dev/null); then
		echo "http://$port/ answers: $answer"
		exit 0
	fi
	sleep 0.05
done
teu logs hello >&2
exit 1
