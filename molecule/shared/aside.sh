#!/bin/sh
# Gives the tests the names and ports of a cluster that runs here, and gives them back: aside.sh set|put DIRECTORY
# Both remove the tests' own containers and data, also those of a run that was cut off; DIRECTORY is where the data lies.
set -eu
action=$1 directory=$2

for name in modelserve_gateway_sync modelserve_gateway modelserve_catalog modelserve_head; do
    # The tests' own containers have their directory mounted.
    if docker inspect --format '{{range .Mounts}}{{.Source}} {{end}}' "$name" 2>/dev/null | grep -q "$directory/"; then
        docker rm -f "$name" >/dev/null
    fi
    there=$(docker ps -aq --filter "name=^$name\$")
    aside=$(docker ps -aq --filter "name=^${name}_set_aside\$")
    if [ "$action" = set ] && [ -n "$there" ] && [ -n "$aside" ]; then
        docker rm -f "$name" >/dev/null # of other tests that were cut off: what was set aside is older
    elif [ "$action" = set ] && [ -n "$there" ]; then
        docker stop -t 45 "$name" >/dev/null
        docker rename "$name" "${name}_set_aside"
        echo "set aside: $name"
    elif [ "$action" = put ] && [ -n "$aside" ]; then
        docker rename "${name}_set_aside" "$name"
        docker start "$name" >/dev/null
        echo "put back: $name"
    fi
done
case $directory in
/var/tmp/modelserve-*) rm -rf "$directory" ;;
esac
