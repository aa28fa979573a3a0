#!/bin/sh
# Makes .venv, or another directory, from a lock file: scripts/venv.sh requirements.lock [.venv]. Does nothing when it is there already.
# Needs Python 3.11 or newer; on Debian and Ubuntu, as root, it installs python3-venv where that is missing.
set -eu
cd "$(dirname "$0")/.."
lock=$1
venv=${2:-.venv}
mark=$venv/.installed-$(basename "$lock")
if [ -x "$venv/bin/python" ] && [ "$(cat "$mark" 2>/dev/null)" = "$(sha256sum <"$lock")" ]; then
    exit 0
fi

python=${PYTHON:-python3}
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "error: $("$python" --version) is too old: Python 3.11 or newer is needed. Set PYTHON=/path/to/it" >&2
    exit 1
fi
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    echo "step: installing python3-venv"
    apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends python3-venv >/dev/null
fi

echo "step: $venv from $lock (half a minute)"
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
# uv installs in seconds what takes pip a minute; it has the version and hashes of the lock, and pip's own index.
if [ ! -x "$venv/bin/uv" ]; then
    sed -n '/^uv==/,/^[a-z]/{/^uv==/p; /^ /p}' "$lock" >"$venv/uv.lock"
    "$venv/bin/pip" install -q --disable-pip-version-check --require-hashes -r "$venv/uv.lock"
fi
# pip ends with an error where it has no index of its own: then uv's default holds.
index=$("$venv/bin/pip" config get :env:.index-url 2>/dev/null || "$venv/bin/pip" config get global.index-url 2>/dev/null || true)
UV_DEFAULT_INDEX=${index:-${UV_DEFAULT_INDEX:-}}
if [ -n "$UV_DEFAULT_INDEX" ]; then export UV_DEFAULT_INDEX; else unset UV_DEFAULT_INDEX; fi
export UV_SYSTEM_CERTS=1 # certificates the site added to the system's count
"$venv/bin/uv" pip sync -q --python "$venv/bin/python" --require-hashes "$lock"
sha256sum <"$lock" >"$mark"
