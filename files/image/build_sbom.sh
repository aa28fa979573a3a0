#!/bin/sh
# Writes /opt/sbom.cdx.json (CycloneDX): what is in the image. What writes it stays in the build stage.
set -eu
export SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt UV_CACHE_DIR=/build/cache
# shellcheck disable=SC1091 # it is there during the build
. /build/sources.sh

echo "step: bill of materials"
uv=/build/boot/bin/uv
"$uv" venv -q --python "$(command -v python3)" --no-python-downloads /build/sbom
"$uv" pip sync -q --python /build/sbom/bin/python --require-hashes /build/sbom.lock
/build/sbom/bin/python /build/make_sbom.py /opt/venv /opt/python /opt/sbom.cdx.json /build/swagger_ui.lock
