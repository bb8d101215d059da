#!/bin/sh
# Takes every figure against the peers and writes docs/benchmarks.md.
set -eu
cd "$(dirname "$0")/.."
bench/setup.sh .cache/peers
exec go run ./bench -teu bin/teu -peers .cache/peers -write docs/benchmarks.md "$@"
