#!/bin/sh
# Builds the modelserve image. Beside this file lie its sources, above it the modelserve package.
#   BASE_RELEASE, BASE_IMAGE, DEBIAN_MIRROR, CA_CERTIFICATES, CONDA_CHANNELS, PYTHON_VERSION, UV_DEFAULT_INDEX
# are its settings (environment variables), CA_CERTIFICATES with a path on each line; the argument is the image's name
# and tag. URLs may hold passwords: these reach Docker by its environment, in the arguments FTP_PROXY and ftp_proxy.
# Docker knows these names: the steps have their values, but no image's history, no cached layer and no error message.
# Docker's classic builder has nothing else for secrets, and no step of the build uses FTP.
# HTTP_PROXY, HTTPS_PROXY, NO_PROXY and their small spellings, where they are set, reach mmdebstrap and the build's steps
# in the same way: a proxy is no reason for another layer either.
set -eu
image=$1
here=$(cd "$(dirname "$0")" && pwd)
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
proxies=""
for name in http_proxy HTTP_PROXY https_proxy HTTPS_PROXY no_proxy NO_PROXY; do
    if printenv "$name" >/dev/null; then proxies="$proxies --build-arg $name"; fi
done
# Without its passwords, the list of channels is part of the history: another list is another layer.
public_channels=$(printf '%s' "${CONDA_CHANNELS:-}" | sed 's#://[^/@ ]*@#://#g')
# shellcheck disable=SC2086 # options, whose values are in the environment
FTP_PROXY=${UV_DEFAULT_INDEX:-} ftp_proxy=${CONDA_CHANNELS:-} DOCKER_BUILDKIT=0 \
    docker build --network host --force-rm --tag "$image" --label modelserve.part=image \
    --build-arg FTP_PROXY --build-arg ftp_proxy $proxies --build-arg BASE_IMAGE="$BASE_IMAGE" \
    --build-arg PUBLIC_CHANNELS="$public_channels" --build-arg PYTHON_VERSION="${PYTHON_VERSION:-}" "$context" 2>&1 |
    sed -u 's/^The command .* returned a non-zero code/error: building the image failed: &/'
docker image inspect "$image" >/dev/null
rm -rf "$context"
