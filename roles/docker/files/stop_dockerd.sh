#!/bin/sh
# Stops the dockerd that start_dockerd.sh started, unless somebody else's containers run in it.
set -eu
pid_file=/run/modelserve-dockerd.pid
[ -f "$pid_file" ] || exit 0
pid=$(cat "$pid_file")
[ "$(cat "/proc/$pid/comm" 2>/dev/null)" = dockerd ] || exit 0
if [ -n "$(docker ps -q)" ]; then
    echo "kept: other containers run in it"
    exit 0
fi
kill "$pid"
waited=0
while [ -d "/proc/$pid" ] && [ "$waited" -lt 30 ]; do
    sleep 1
    waited=$((waited + 1))
done
echo stopped
