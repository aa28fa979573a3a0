#!/bin/sh
# Starts dockerd in a session of its own on a host without a service manager, and waits until it answers.
# Prints "started", or "running" when one answers already. `make down` stops what this started.
set -eu
pid_file=/run/modelserve-dockerd.pid
log=/var/log/modelserve-dockerd.log

if docker version >/dev/null 2>&1; then
    echo running
    exit 0
fi

# Whether the pid file names a living process of that name.
lives() {
    status=/proc/$(cat "$1" 2>/dev/null)/status
    [ -f "$status" ] && grep -q "^Name:[[:space:]]*$2\$" "$status" && ! grep -q "^State:[[:space:]]*Z" "$status"
}

# A daemon that was killed leaves pid files behind. Their numbers may be other programs' by now, and the daemon would
# then take those for itself.
for file in "$pid_file" /run/docker.pid /var/run/docker.pid; do
    lives "$file" dockerd || rm -f "$file"
done
lives /run/docker/containerd/containerd.pid containerd || rm -f /run/docker/containerd/containerd.pid

setsid dockerd --pidfile "$pid_file" >>"$log" 2>&1 </dev/null &
daemon=$!
waited=0
until docker version >/dev/null 2>&1; do
    waited=$((waited + 1))
    if [ "$waited" -gt 90 ] || ! kill -0 "$daemon" 2>/dev/null; then
        echo "error: dockerd does not start; the end of $log:" >&2
        tail -n 5 "$log" >&2
        exit 1
    fi
    sleep 1
done
echo started
