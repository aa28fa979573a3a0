#!/bin/sh
# Prints what a host is like, one line a thing, so that two of its states can be compared: survey.sh >before.
# Packages, users, groups, services, firewall rules, network interfaces, processes, files of /etc, directories, and what
# Docker has. Changes nothing. Run it as root.
set -u
export LC_ALL=C

list() { # a name for what follows on standard input
    sort -u | sed "s#^#$1: #"
}

dpkg-query --show --showformat '${db:Status-Abbrev}${Package}\n' 2>/dev/null | list package
getent passwd | list user
getent group | list group
systemctl list-unit-files --state=enabled --no-legend 2>/dev/null | awk '{print $1}' | list 'enabled unit'
systemctl list-units --type=service --state=running --no-legend 2>/dev/null | awk '{print $1}' | list 'running service'
nft list tables 2>/dev/null | list 'nftables'
find /sys/class/net -mindepth 1 -not -name 'veth*' -printf '%f\n' | list interface
ps -e -o comm= | awk '!/^(ps|sort|sed|awk|sh|kworker.*)$/' | list process
find /etc -xdev -type f -exec sha256sum {} + 2>/dev/null | awk '{print $2, substr($1, 1, 12)}' | list file
find / -xdev -maxdepth 3 -type d \( -path /proc -o -path /sys -o -path /tmp -o -path /run -o -path /root/.ansible \) -prune -o \
    -type d -maxdepth 3 -print 2>/dev/null | list directory
docker ps --all --format '{{.Names}}' 2>/dev/null | list container
docker images --format '{{.Repository}}' 2>/dev/null | list image
docker volume ls --quiet 2>/dev/null | list volume
docker network ls --format '{{.Name}}' 2>/dev/null | list 'docker network'
