#!/bin/sh
# Brings a base image up to packages.txt. The bootstrapped base has them all, and nothing is fetched;
# an image named by modelserve_base_image (Debian or Ubuntu) gets what it lacks.
set -eu
wanted=$(cat /build/packages.txt)
missing=""
for package in $wanted; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing="$missing $package"
done
if [ -n "$missing" ]; then
    echo "installing into the base image:$missing"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q
    # shellcheck disable=SC2086 # a list of package names
    apt-get install -q -y --no-install-recommends $missing
    rm -rf /var/lib/apt/lists/*
fi
update-ca-certificates
sh /build/record_packages.sh
