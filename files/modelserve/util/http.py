"""How is the gateway asked on its own host?"""

from __future__ import annotations

import ssl
import urllib.request


def context_here() -> ssl.SSLContext:
    """For connections to the gateway on its own host: whose certificate it shows is no question there."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def opener_here() -> urllib.request.OpenerDirector:
    """Opens URLs of the gateway on its own host, past any proxy."""
    context = context_here()
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
