"""The environment variables by which programs find an HTTP proxy, and what they reach without it."""

from __future__ import annotations

DOCUMENTATION = r"""
name: proxy_environment
author: modelserve
short_description: Environment variables of an HTTP proxy
description:
  - Programs read C(http_proxy) or C(HTTP_PROXY), few read both. curl reads the lower-case one alone.
  - A network such as 10.0.0.0/8 in C(no_proxy) is understood by few programs, so that every address is listed.
options:
  _terms:
    description:
      - A dictionary of C(http) and C(https), URLs or empty, and C(direct), names and addresses that are reached
        without the proxy. This host's loopback is added.
    required: true
"""

from collections.abc import Iterable
from typing import Any

from ansible.plugins.lookup import LookupBase

LOOPBACK = ("localhost", "127.0.0.1", "::1")


def environment(http: str, https: str, direct: Iterable[str]) -> dict[str, str]:
    """Return the variables in both spellings; none without a proxy.

    Args:
        http: URL of the proxy for http:// addresses; empty: there is none.
        https: URL of the proxy for https:// addresses; empty: there is none.
        direct: names and addresses that are reached without it.
    """
    proxies = {"http_proxy": http, "https_proxy": https}
    values = {name: url for name, url in proxies.items() if url}
    if values:
        values["no_proxy"] = ",".join(dict.fromkeys(str(name) for name in (*LOOPBACK, *direct) if name))
    return {spelling: value for name, value in values.items() for spelling in (name, name.upper())}


class LookupModule(LookupBase):
    """The lookup ``proxy_environment``."""

    def run(
        self, terms: list[dict[str, Any]], variables: dict[str, Any] | None = None, **kwargs: Any
    ) -> list[dict[str, str]]:
        """Return one dictionary for each proxy."""
        return [environment(term["http"], term["https"], term["direct"]) for term in terms]
