#!/bin/sh
# Stops and renames the containers of a cluster that runs here, so that the tests can have its names and ports.
set -eu
for name in modelserve_gateway modelserve_catalog modelserve_head; do
    [ -n "$(docker ps -aq --filter "name=^$name\$")" ] || continue
    if [ -n "$(docker ps -aq --filter "name=^${name}_set_aside\$")" ]; then
        docker rm -f "$name" >/dev/null # left by tests that were cut off: what was set aside is older
        continue
    fi
    docker stop -t 45 "$name" >/dev/null
    docker rename "$name" "${name}_set_aside"
    echo "set aside: $name"
done
