"""HTTP clients for this cluster's own services, which no proxy stands before."""

from __future__ import annotations

import ssl
import urllib.request


def direct_opener() -> urllib.request.OpenerDirector:
    """Return an opener that ignores the environment's proxies."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def local_opener() -> urllib.request.OpenerDirector:
    """Return an opener for the gateway on this host, as :func:`direct_opener`, over any certificate."""
    https = urllib.request.HTTPSHandler(context=local_context())
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), https)


def local_context() -> ssl.SSLContext:
    """Return TLS settings for connections to the gateway on this host.

    They accept every certificate: it names the address that clients use, not this one.
    """
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
