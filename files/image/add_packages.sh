#!/bin/sh
# Runs in the image, while a layer is built: installs $PACKAGES. Unknown names are all printed, and nothing is installed.
set -eu
export DEBIAN_FRONTEND=noninteractive LC_ALL=C
# shellcheck disable=SC1091 # it is there during the build
. /etc/os-release
echo "release: ${PRETTY_NAME:-$ID}"
login=/etc/apt/auth.conf.d/modelserve.conf
trap 'rm -f "$login"' EXIT
if [ -n "${FTP_PROXY:-}" ]; then
    (umask 077 && printf '%s\n' "$FTP_PROXY" >"$login")
fi
unset FTP_PROXY ftp_proxy

apt-get update -q -o APT::Update::Error-Mode=any
# By its exact name: apt takes "libfoo." for a pattern. A package is there, or one other provides it.
wrong=$(for package in $PACKAGES; do
    apt-cache showpkg "$package" 2>/dev/null | awk -v name="$package" '
        /^Package: / { mine = $2 == name; next }
        /^(Versions|Reverse Provides):/ { part = mine ? $1 : ""; next }
        /^[A-Z][A-Za-z ]*:/ { part = "" }
        part == "Versions:" && NF { there = 1 }
        part == "Reverse" && NF && !seen[$1]++ { providers = providers (count++ ? ", " : "") $1 }
        END {
            if (!there && count > 1) print "several packages: " name " " providers
            else if (!there && !count) print "no package: " name
        }'
done)
if [ -n "$wrong" ]; then
    echo "$wrong"
    exit 1
fi
# shellcheck disable=SC2086 # a list of package names
apt-get install -q -y --no-install-recommends $PACKAGES
apt-get clean
rm -rf /var/lib/apt/lists/* /var/log/apt /var/log/dpkg.log
if [ -n "${RECORD:-}" ]; then sh /opt/lib/record_packages.sh; fi
/opt/venv/bin/python /opt/lib/sbom_packages.py /opt/sbom.cdx.json
