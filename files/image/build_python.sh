#!/bin/sh
# Makes /opt/venv (Ray and the tools, from image.lock) and /opt/channel (a conda channel with the image's own Python).
set -eu
export SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt PIP_CERT=/etc/ssl/certs/ca-certificates.crt
# shellcheck disable=SC1091 # it is there during the build
. /build/sources.sh

echo "step: installer"
python3 -m venv /build/boot
/build/boot/bin/pip install -q --disable-pip-version-check --require-hashes -r /build/bootstrap.lock

python=$(command -v python3)
if [ -n "${PYTHON_VERSION:-}" ] && [ "${PYTHON_SOURCE:-}" = mirror ]; then
    echo "step: python $PYTHON_VERSION from $PUBLIC_CHANNELS"
    if ! UV_CACHE_DIR=/build/cache /build/boot/bin/uv python install --no-bin --install-dir /opt/python "$PYTHON_VERSION" 2>/build/log; then
        cat /build/log >&2
        cause=$(sed 's/^ *\(error\|cause\|Caused by\): *//' /build/log | grep -v '^$' | tail -n 2 | paste -sd ' ' | sed 's#://[^/@ ]*@#://#g')
        echo "error: no Python $PYTHON_VERSION from $PUBLIC_CHANNELS: $cause. Set modelserve_python_mirror to a copy of" \
            "python-build-standalone's releases that this host reaches, and modelserve_python to a version that it has"
        exit 1
    fi
    set -- /opt/python/cpython-*.*.*-*/bin/python3
    python=$1
elif [ -n "${PYTHON_VERSION:-}" ]; then
    echo "step: python $PYTHON_VERSION from $PUBLIC_CHANNELS"
    /build/boot/bin/python /build/make_channel.py install "$PYTHON_VERSION" /opt/python
    python=/opt/python/bin/python3
fi

echo "step: python packages"
uv=/build/boot/bin/uv
export UV_CACHE_DIR=/build/cache
"$uv" venv -q --python "$python" --no-python-downloads /opt/venv
"$uv" pip sync -q --python /opt/venv/bin/python --require-hashes --compile-bytecode /build/image.lock
mkdir -p /opt/lib
"$python" - <<'PYTHON'
import pathlib, sysconfig
site = pathlib.Path(f"/opt/venv/lib/python{sysconfig.get_python_version()}/site-packages")
(site / "modelserve.pth").write_text("/opt/lib\n")
script = pathlib.Path("/opt/venv/bin/modelserve")
script.write_text("#!/opt/venv/bin/python\nfrom modelserve.cli import entry\nentry()\n")
script.chmod(0o755)
PYTHON
cp /build/base.lock /opt/venv/base.lock

echo "step: swagger ui"
"$uv" pip install -q --python /opt/venv/bin/python --target /build/sidecar --no-deps --require-hashes \
    -r /build/swagger_ui.lock
mkdir /opt/lib/swagger-ui
for file in LICENSE favicon-32x32.png swagger-ui-bundle.js swagger-ui.css; do
    cp "/build/sidecar/drf_spectacular_sidecar/static/drf_spectacular_sidecar/swagger-ui-dist/$file" /opt/lib/swagger-ui/
done

echo "step: conda channel"
/build/boot/bin/python /build/make_channel.py pack "$python" /opt/channel
