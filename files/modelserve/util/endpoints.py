"""Addresses with ports, as URLs and configuration files write them."""

from __future__ import annotations


def endpoint(host: str, port: int) -> str:
    """Return a host and a port; an IPv6 address gets brackets.

    Args:
        host: a name or an address.
        port: the port.
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
