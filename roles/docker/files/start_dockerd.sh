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

# A daemon that was killed leaves pid files behind. Their numbers may be other programs' by now, and the daemon would
# then take those for itself.
for file in "$pid_file" /run/docker.pid /var/run/docker.pid; do
    [ -f "$file" ] || continue
    [ "$(cat "/proc/$(cat "$file")/comm" 2>/dev/null)" = dockerd ] || rm -f "$file"
done
containerd=/run/docker/containerd/containerd.pid
if [ -f "$containerd" ] && [ "$(cat "/proc/$(cat "$containerd")/comm" 2>/dev/null)" != containerd ]; then
    rm -f "$containerd"
fi

setsid dockerd --pidfile "$pid_file" >>"$log" 2>&1 </dev/null &
waited=0
until docker version >/dev/null 2>&1; do
    waited=$((waited + 1))
    if [ "$waited" -gt 60 ]; then
        echo "error: dockerd does not answer after 60 s; the end of $log:" >&2
        tail -n 5 "$log" >&2
        exit 1
    fi
    sleep 1
done
echo started
