#!/bin/sh
# Resolves every lock file anew, for any Python from 3.11 on. To raise versions: scripts/lock.sh --upgrade
set -eu
cd "$(dirname "$0")/.."
compile() {
    out=$1
    shift
    .venv/bin/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header "$@" -o "$out"
}
compile requirements-dev.lock requirements-dev.in "$@"
compile requirements.lock requirements.in -c requirements-dev.lock
# Without the other lock's versions: a client of S3 needs an older python-dateutil than pandas of the tests.
compile requirements-models.lock requirements-models.in -c requirements.lock "$@"
compile requirements-models-test.lock requirements-models-test.in -c requirements-models.lock
cd files/image
../../.venv/bin/uv --version >/dev/null
PATH=../../.venv/bin:$PATH
lock() {
    out=$1
    shift
    uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header "$@" -o "$out"
}
lock image.lock image.in "$@"
lock base.lock base.in -c image.lock
lock bootstrap.lock bootstrap.in -c image.lock
lock sbom.lock sbom.in "$@"
lock swagger_ui.lock swagger_ui.in --no-deps "$@"
# The benchmark's peers, for the Python of the image.
cd ../../bench/peers
for peer in *; do
    uv pip compile -q --universal --python-version 3.13 --generate-hashes --no-header "$peer/requirements.in" \
        -o "$peer/requirements.lock" "$@"
done
