"""Serve the head's store to the workers, read only, by an rsync daemon whose password is the cluster's token."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from modelserve.errors import UserError
from modelserve.ports import SERVICE_PORTS
from modelserve.settings import Settings
from modelserve.util.files import write_atomically

PORT = SERVICE_PORTS["store"]
MODULE = "store"
FILES_MODULE = "files"
USER = "modelserve"
# The others are refused and try again, so that these finish.
MAX_CONNECTIONS = 16
# Gateways follow the replicas by small files, once a second. These requests never wait for workers that fetch models.
MAX_FILE_CONNECTIONS = 256
# Hosts that connect in the same moment; rsync's own default is 5.
LISTEN_BACKLOG = 128
RUNTIME = Path("/run/modelserve")

# See rsyncd.conf(5). Symbolic links stay as they are: those of an environment point to the image's Python.
CONFIGURATION = """\
port = {port}
use chroot = no
munge symlinks = no
read only = yes
list = no
{identity}
reverse lookup = no
listen backlog = {backlog}
log file = /dev/stderr
transfer logging = no
path = {store}
auth users = {user}
secrets file = {secrets}
[{module}]
max connections = {connections}
lock file = {runtime}/rsyncd.lock
exclude = /cache /lock /set /model_hashes.json /.[!.]* /*/.[!.]* /model/*/.[!.]*
[{files_module}]
max connections = {file_connections}
lock file = {runtime}/rsyncd.files.lock
exclude = /cache /lock /env /pkg /model /set /image /model_hashes.json /.[!.]* /*/.[!.]*
"""


def run(settings: Settings) -> None:
    """Replace this process by the daemon.

    Raises:
        UserError: the cluster has no token yet.
    """
    if not settings.token_file.exists():
        raise UserError(f"{settings.token_file} is missing", "Run site.yml")
    secrets = RUNTIME / "rsyncd.secrets"
    write_atomically(secrets, f"{USER}:{settings.token_file.read_text().strip()}\n", mode=0o600)
    # rsync of root would run as nobody, who may not read the store.
    identity = "uid = 0\ngid = 0" if os.geteuid() == 0 else ""
    text = CONFIGURATION.format(
        identity=identity,
        port=PORT,
        backlog=LISTEN_BACKLOG,
        connections=MAX_CONNECTIONS,
        file_connections=MAX_FILE_CONNECTIONS,
        runtime=RUNTIME,
        module=MODULE,
        files_module=FILES_MODULE,
        store=settings.home / "store",
        user=USER,
        secrets=secrets,
    )
    write_atomically(RUNTIME / "rsyncd.conf", text)
    sys.stdout.flush()
    os.execvp("rsync", ["rsync", "--daemon", "--no-detach", f"--config={RUNTIME}/rsyncd.conf"])
