#!/bin/sh
# Restarts Docker, and returns when the node's container, if it ran, works again: the next host waits for it.
# Arguments: the container's name, and the node's role (head or worker).
set -eu
container=$1
role=$2
running=$(docker inspect --format '{{.State.Running}}' "$container" 2>/dev/null || true)
systemctl restart docker
if [ "$running" = true ]; then
    docker exec "$container" modelserve node health --role "$role" --wait 120
fi
