"""Keep passwords out of what environments are made from: packages, locks and releases lie on every host."""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from modelserve.environments.requirements import Line
from modelserve.errors import UserError
from modelserve.security.section_secrets import SectionSecrets
from modelserve.settings import Settings

# A secret of the cluster with this name is the netrc file of uv and git.
NETRC = "netrc"
# In "ssh://git@example.org" the user is no secret.
_USER = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<user>[^/@\s'\"]+)@(?P<host>[^/:\s'\"]+)", re.IGNORECASE)
_GIT_CONFIGURATION = {
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "credential.helper",
    "GIT_CONFIG_VALUE_0": f"!{shlex.quote(sys.executable)} -m modelserve.environments.git_credentials",
}


def refuse(lines: Iterable[Line]) -> None:
    """Refuse requirement lines with a password.

    Raises:
        UserError: a line has one. The message does not show it.
    """
    for line in lines:
        for url in _USER.finditer(line.text):
            if url["scheme"].lower().endswith("ssh") and ":" not in url["user"]:
                continue
            message = f"holds a user or a password for {url['host']}, which every host's store would keep"
            fix = (
                f"Remove it, and set the secret {NETRC} of modelserve_secrets to 'machine {url['host']} login USER "
                "password PASSWORD'"
            )
            raise UserError(line.problem(message, fix))


@contextmanager
def netrc(settings: Settings) -> Iterator[tuple[dict[str, str], tuple[int, ...]]]:
    """Give a child process the cluster's netrc, from memory: no file of it is left behind.

    Args:
        settings: say where the secrets are.

    Yields:
        Environment variables for the child, and the file descriptors that it inherits; none without that secret.
    """
    secrets = SectionSecrets(settings)
    if not os.access(settings.home / "secrets", os.R_OK | os.X_OK) or NETRC not in secrets.names():
        yield {}, ()
        return
    descriptor = os.memfd_create(NETRC)
    try:
        with os.fdopen(os.dup(descriptor), "w") as stream:
            stream.write(secrets.value(NETRC) + "\n")
        yield {"NETRC": f"/proc/self/fd/{descriptor}", **_GIT_CONFIGURATION}, (descriptor,)
    finally:
        os.close(descriptor)
