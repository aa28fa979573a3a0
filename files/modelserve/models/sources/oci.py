"""Models that lie in a registry of containers as artifacts of ORAS."""

from __future__ import annotations

import functools
import hashlib
import shutil
from pathlib import Path
from typing import Any

from modelserve.models.sources.request import Request, library

SOURCE = "oci"
# Registries that are reached without TLS, as Docker does it.
LOCAL = ("localhost", "127.0.0.1", "[::1]")
TIMEOUT_S = 30


def fetch(request: Request) -> Path:
    """Pull an artifact; the login comes from ``~/.docker/config.json``.

    Returns:
        The directory of what the artifact has; where that is one file or one directory, this one.
    """
    shutil.rmtree(request.content, ignore_errors=True)
    request.content.mkdir()
    _client(request).pull(target=request.model.oci, outdir=str(request.content))
    names = list(request.content.iterdir())
    return names[0] if len(names) == 1 and not request.model.member else request.content


def pinned(request: Request) -> dict[str, str]:
    """Return the reference with the digest that a tag names now."""
    client, reference = _client(request), request.model.oci
    if "@" in reference:
        return {}
    container = client.get_container(reference)
    client.auth.load_configs(container)
    accepted = {"Accept": ", ".join(library("oras.defaults", SOURCE).default_manifest_accepted_media_types)}
    answer = client.do_request(f"{client.prefix}://{container.manifest_url()}", "GET", headers=accepted)
    answer.raise_for_status()
    digest = hashlib.sha256(answer.content).hexdigest()
    repository, _, name = reference.rpartition("/")
    return {"oci": f"{repository}/{name.partition(':')[0]}@sha256:{digest}"}


def _client(request: Request) -> Any:
    host = request.model.oci.split("/")[0]
    local = host.rpartition(":")[0] in LOCAL or host in LOCAL
    clients, requests = library("oras.client", SOURCE), library("requests", SOURCE)
    # The library does not look which of the two kinds of login a registry asks for.
    answer = requests.get(f"{'http' if local else 'https'}://{host}/v2/", timeout=TIMEOUT_S)
    challenge = answer.headers.get("Www-Authenticate", "").lower()
    basic = answer.status_code == requests.codes.unauthorized and challenge.startswith("basic")
    client = clients.OrasClient(insecure=local, auth_backend="basic" if basic else "token")
    client.auth.load_configs(client.get_container(request.model.oci))
    if basic and not getattr(client.auth, "_basic_auth", None):
        raise PermissionError(f"{host} asks for a login")
    # Its retries sleep for two minutes before it reports that a login is wrong or a registry is off.
    client.do_request = functools.partial(type(client).do_request.__wrapped__, client)
    return client
