#!/bin/sh
# Runs parts of the tests, one after the other, and prints how long each took: test/run.sh check integration cluster
# A part is a target of the Makefile, or a Molecule scenario. Stops at the first part that fails.
set -eu
cd "$(dirname "$0")/.."
table=$(mktemp)
began=$(date +%s)

finish() {
    code=$?
    trap - EXIT
    printf '\n%-14s%6s\n' part time
    cat "$table"
    printf '%-14s%4s s\n' all $(($(date +%s) - began))
    rm -f "$table"
    exit "$code"
}
trap finish EXIT

for part in "$@"; do
    started=$(date +%s)
    verdict="" code=0
    if [ -d "molecule/$part" ]; then
        PATH="$PWD/.venv/bin:$PATH" molecule test --no-command-borders -s "$part" || code=$?
    else
        make --no-print-directory "$part" || code=$?
    fi
    [ "$code" = 0 ] || verdict="  failed"
    printf '%-14s%4s s%s\n' "$part" $(($(date +%s) - started)) "$verdict" >>"$table"
    [ "$code" = 0 ] || exit "$code"
done
