#!/bin/sh
# Adds Debian packages to an image, as one layer on top: add_layer.sh FROM IMAGE. Its settings are environment variables:
#   DEBIAN_PACKAGES   a line for each package: its name, and who asks for it
#   RECORD            not empty: the layer is the workers' too, so that an apply may count on its packages
#   BASE_IMAGE, DEBIAN_MIRROR, and the proxy's, as for build.sh
set -eu
from=$1
image=$2
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$here/common.sh"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

packages=$(printf '%s\n' "$DEBIAN_PACKAGES" | cut -d ' ' -f 1 | paste -sd ' ')
echo "step: Debian packages: $packages"
install -D -m 0644 "$here/layer.Dockerfile" "$work/context/Dockerfile" # the log is not in the context, which Docker reads
login="" failed=0
[ -n "${BASE_IMAGE:-}" ] || login=$(mirror_login) # an image of the site has its own archives
# shellcheck disable=SC2046 # options, whose values are in the environment
FTP_PROXY=$login DOCKER_BUILDKIT=0 \
    docker build --network host --force-rm --tag "$image" --label modelserve.part=image --build-arg FTP_PROXY \
    $(proxy_options) --build-arg BASE_IMAGE="$from" --build-arg PACKAGES="$packages" --build-arg RECORD="${RECORD:-}" \
    "$work/context" >"$work/log" 2>&1 || failed=$?
[ "$failed" -eq 0 ] && exit

# Each name that apt cannot install, with who asks for it; else what apt or Docker names as the cause.
release=$(sed -n 's/^release: //p' "$work/log")
sed -n 's/^\(no\|several\) packages\{0,1\}: /\1 /p' "$work/log" | while read -r which name providers; do
    place=$(printf '%s\n' "$DEBIAN_PACKAGES" | sed -n "s/^$name //p")
    case $which in
    no) echo "error: $place asks for $name, which $release does not have. Correct the name: packages.debian.org lists all" ;;
    *) echo "error: $place asks for $name, which several packages provide. Write one of them: $providers" ;;
    esac
done >"$work/wrong"
if [ -s "$work/wrong" ]; then
    cat "$work/wrong"
    exit 1
fi
cat "$work/log" >&2
reason=$(sed -n 's/^E: //p' "$work/log" | head -n 1)
echo "error: no Debian packages for the image: ${reason:-$(tail -n 1 "$work/log")}. Set modelserve_debian_mirror to an archive" \
    "that this host reaches, or modelserve_http_proxy to a proxy that leads there"
exit 1
