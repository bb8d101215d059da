#!/bin/sh
# Runs every fuzz target of the module for the given time, one after the other.
set -eu
time=${1:-10s}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u | while read -r dir; do
	grep -ho '^func Fuzz[A-Za-z0-9_]*' "$dir"/*_test.go | sed 's/^func //' | while read -r target; do
		echo "== $dir $target"
		if go test -run '^$' -fuzzminimizetime 10x -fuzz "^$target\$" -fuzztime "$time" "$dir" >"$log" 2>&1; then
			tail -1 "$log"
		elif grep -q 'context deadline exceeded' "$log" && ! grep -qE 'Failing input|panic|fatal error' "$log"; then
			# The time was up while a worker was busy: no input was found.
			echo "ok	$dir	(ended by its time)"
		else
			cat "$log"
			exit 1
		fi
	done
done
