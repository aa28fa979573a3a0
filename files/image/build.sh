#!/bin/sh
# Builds the modelserve image. Beside this file lie its sources, above it the modelserve package.
#   BASE_RELEASE, BASE_IMAGE, DEBIAN_MIRROR, CA_CERTIFICATES, CONDA_CHANNELS, PYTHON_VERSION, PYTHON_MIRROR, UV_DEFAULT_INDEX
# are its settings (environment variables), CA_CERTIFICATES with a path on each line; the argument is the image's name
# and tag. URLs may hold passwords: these reach Docker by its environment, in the arguments FTP_PROXY and ftp_proxy.
# Docker knows these names: the steps have their values, but no image's history, no cached layer and no error message.
# Docker's classic builder has nothing else for secrets, and no step of the build uses FTP.
# HTTP_PROXY, HTTPS_PROXY, NO_PROXY and their small spellings, where they are set, reach mmdebstrap and the build's steps
# in the same way: a proxy is no reason for another layer either.
set -eu
image=$1
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$here/common.sh"
context=$here/../context

rm -rf "$context"
mkdir -p "$context/ca"
cp -R "$here/." "$context/"
cp -R "$here/../modelserve" "$context/modelserve"
printf '%s\n' "${CA_CERTIFICATES:-}" | while IFS= read -r certificate; do
    [ -z "$certificate" ] || cp "$certificate" "$context/ca/$(basename "${certificate%.*}").crt"
done

if [ -z "${BASE_IMAGE:-}" ]; then
    packages=$(paste -sd, "$here/packages.txt")
    BASE_IMAGE=modelserve-base:$BASE_RELEASE-$(echo "$packages ${DEBIAN_MIRROR:-}" | sha256sum | cut -c 1-12)
    if ! docker image inspect "$BASE_IMAGE" >/dev/null 2>&1; then
        echo "step: base system from Debian $BASE_RELEASE (half a minute)"
        sh "$here/bootstrap.sh" "$BASE_IMAGE"
    fi
fi

echo "step: image $image"
# The cluster's Python comes from one place. Without its passwords, that is part of the history: another is another layer.
channels=${CONDA_CHANNELS:-}
python_source=""
if [ -n "${PYTHON_MIRROR:-}" ]; then
    channels=$PYTHON_MIRROR
    python_source=mirror
fi
public_channels=$(printf '%s' "$channels" | sed 's#://[^/@ ]*@#://#g')
# shellcheck disable=SC2046 # options, whose values are in the environment
FTP_PROXY=${UV_DEFAULT_INDEX:-} ftp_proxy=$channels DOCKER_BUILDKIT=0 \
    docker build --network host --force-rm --tag "$image" --label modelserve.part=image \
    --build-arg FTP_PROXY --build-arg ftp_proxy $(proxy_options) --build-arg BASE_IMAGE="$BASE_IMAGE" \
    --build-arg PUBLIC_CHANNELS="$public_channels" --build-arg PYTHON_VERSION="${PYTHON_VERSION:-}" \
    --build-arg PYTHON_SOURCE="$python_source" "$context" 2>&1 |
    # Docker's own line, where the step has not named the cause.
    sed -u -e '/^error:/h' -e '/^The command .* returned a non-zero code/{x;/^error:/{x;b' -e '};x' \
        -e 's/^/error: building the image failed: /' -e '}'
docker image inspect "$image" >/dev/null
rm -rf "$context"
