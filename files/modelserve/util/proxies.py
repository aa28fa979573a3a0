"""HTTP proxies in environment variables: for what fetches packages, and for nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

# In small letters. gRPC reads grpc_proxy and no_grpc_proxy beside the others, rsync reads RSYNC_PROXY.
NAMES = frozenset(
    {"http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy", "grpc_proxy", "no_grpc_proxy", "rsync_proxy"}
)


def without_proxies(variables: Mapping[str, str]) -> dict[str, str]:
    """Return environment variables without those that name a proxy: for processes that talk within the cluster."""
    return {name: value for name, value in variables.items() if name.lower() not in NAMES}


@contextmanager
def proxied(variables: Mapping[str, str]) -> Iterator[None]:
    """Give this process an HTTP proxy, for a library that reads it from the environment and from nowhere else.

    Args:
        variables: ``Settings.proxy_environment``; none leaves the environment as it is.
    """
    if not variables:
        yield
        return
    before = dict(os.environ)
    try:
        for name in before.keys() - without_proxies(before).keys():
            del os.environ[name]
        os.environ.update(variables)
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
