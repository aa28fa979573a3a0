"""The address of a host in the cluster: its own where it is one, else what its name resolves to on this machine.

Resolved here, once for all: hosts that resolve a name by themselves may get different addresses for it, or their
loopback for their own.
"""

from __future__ import annotations

DOCUMENTATION = r"""
name: node_address
author: modelserve
short_description: The addresses that hosts are named by
description: A name that has no address but loopback's stays as it is.
options:
  _terms:
    description: Addresses or names.
    required: true
"""

import functools
import ipaddress
import socket
from typing import Any

from ansible.plugins.lookup import LookupBase


@functools.cache
def node_address(name: str) -> str:
    """Return an address for a host's name: of several the lowest, IPv4 first; the name itself where there is none."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        pass
    try:
        answers = socket.getaddrinfo(name, None, proto=socket.IPPROTO_TCP)
    except (OSError, UnicodeError):
        return name
    addresses = {ipaddress.ip_address(str(answer[4][0]).partition("%")[0]) for answer in answers}
    usable = [address for address in addresses if not (address.is_loopback or address.is_link_local)]
    return str(min(usable, key=lambda address: (address.version, int(address)))) if usable else name


class LookupModule(LookupBase):
    """The lookup ``node_address``."""

    def run(self, terms: list[str], variables: dict[str, Any] | None = None, **kwargs: Any) -> list[str]:
        """Return one address for each host."""
        return [node_address(str(term)) for term in terms]
