#!/bin/sh
# Bootstraps a base image from Debian's packages: bootstrap.sh IMAGE. BASE_RELEASE and DEBIAN_MIRROR are its settings
# (environment variables). A name and password in the mirror's URL reach apt by a file of its own, not by a command
# line, and are not in the image.
set -eu
image=$1
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source-path=SCRIPTDIR source=common.sh
. "$here/common.sh"
work=$(mktemp -d) # for root alone
trap 'rm -rf "$work"' EXIT

mirror=$(printf '%s' "${DEBIAN_MIRROR:-}" | sed 's#://[^/@]*@#://#')
mirror_login >"$work/login"
# shellcheck disable=SC2016 # mmdebstrap runs the hooks, with the directory as their argument
set -- --setup-hook="install -D -m 0600 $work/login \"\$1/etc/apt/auth.conf.d/mirror.conf\"" \
    --customize-hook='rm "$1/etc/apt/auth.conf.d/mirror.conf"'

# The whole archive first: a bootstrap that fails must leave no image, not even an empty one.
packages=$(paste -sd, "$here/packages.txt")
# shellcheck disable=SC2086 # the mirror is one word, or none
if ! mmdebstrap --variant=minbase --include="$packages" "$@" "$BASE_RELEASE" "$work/base.tar" $mirror >"$work/log" 2>&1; then
    cat "$work/log" >&2
    fix="Set modelserve_debian_mirror to an archive that this host reaches, modelserve_http_proxy to a proxy that leads there"
    fix="$fix, or modelserve_base_image"
    ! grep -q NO_PUBKEY "$work/log" ||
        fix="This host lacks the keys of that release: install a newer debian-archive-keyring, or set modelserve_base_image"
    reason=$(sed -n 's/^E: //p' "$work/log" | head -n 1)
    echo "error: no base system from Debian $BASE_RELEASE: ${reason:-mmdebstrap failed}. $fix"
    exit 1
fi
docker import --change 'LABEL modelserve.part=base' "$work/base.tar" "$image" >/dev/null
