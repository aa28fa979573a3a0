#!/bin/sh
# Removes the tests' containers and data (the argument is their directory), and starts again what was set aside.
set -eu
for name in modelserve_head modelserve_gateway modelserve_catalog; do
    # Only the tests' own: their containers have that directory mounted.
    if docker inspect --format '{{range .Mounts}}{{.Source}} {{end}}' "$name" 2>/dev/null | grep -q "^$1/"; then
        docker rm -f "$name" >/dev/null
    fi
    if [ -n "$(docker ps -aq --filter "name=^${name}_set_aside\$")" ]; then
        docker rename "${name}_set_aside" "$name"
        docker start "$name" >/dev/null
        echo "put back: $name"
    fi
done
case $1 in
/var/tmp/modelserve-*) rm -rf "$1" ;;
esac
