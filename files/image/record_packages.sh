#!/bin/sh
# Writes /opt/debian_packages.txt: the names of all packages in the workers' image, and what they provide. An apply compares
# them with algopkg/<Name>/packages.txt (modelserve.config.debian).
set -eu
# shellcheck disable=SC2016 # dpkg-query's own variables
dpkg-query -W -f '${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p' >/opt/debian_packages.txt
# shellcheck disable=SC2016
dpkg-query -W -f '${Provides}\n' | tr ',' '\n' | sed -n 's/^ *\([a-z0-9][a-z0-9+.-]*\).*/\1/p' >>/opt/debian_packages.txt
