"""Models from http(s) addresses. An interrupted download goes on where it stopped."""

from __future__ import annotations

import base64
import http.client
import netrc
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from modelserve.models.sources.request import Request

ATTEMPTS = 5
FIRST_PAUSE_S = 1.0
TIMEOUT_S = 60
_CHUNK = 2**20
_RANGE_NOT_SATISFIABLE = 416


class BrokenOffError(ConnectionError):
    """The connection ended before the end of the file."""


def fetch(request: Request) -> Path:
    """Download a file; the credentials of its host come from ``~/.netrc`` or ``$NETRC``.

    A connection that breaks off is opened again, as long as each attempt gets a part of the file.

    Returns:
        The file.

    Raises:
        OSError: the server does not answer, refuses, or ends the connection again and again.
    """
    target, pause = request.content, FIRST_PAUSE_S
    for attempt in range(1, ATTEMPTS + 1):
        before = _size(target)
        try:
            _download(request, target)
            return target
        except (BrokenOffError, ConnectionResetError, TimeoutError, http.client.IncompleteRead) as error:
            if attempt == ATTEMPTS or _size(target) == before:
                raise
            request.report(f"{request.model.name}: {error}; the download goes on in {pause:.0f} s")
            time.sleep(pause)
            pause *= 2
    raise AssertionError("the last attempt returns or raises")


def _download(request: Request, target: Path) -> None:
    start = _size(target)
    try:
        response = _open(request, target, start)
    except urllib.error.HTTPError as error:
        if error.code != _RANGE_NOT_SATISFIABLE or not start:
            raise
        start, response = 0, _open(request, target, 0)  # the file has become shorter
    with response:
        start = start if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0
        length = int(response.headers.get("Content-Length") or -1)
        if start == 0:
            validator = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
            _validator_file(target).write_text("" if validator.startswith("W/") else validator)
        if length > 0:
            request.require_space(length)
        received = 0
        with target.open("r+b" if start else "wb") as stream:
            stream.seek(start)
            while chunk := response.read(_CHUNK):
                stream.write(chunk)
                received += len(chunk)
    if received < length:
        raise BrokenOffError(f"the server closed the connection after {start + received} of {start + length} bytes")


def _open(request: Request, target: Path, start: int) -> http.client.HTTPResponse:
    url, authorization = _credentials(request.model.url)
    ask = urllib.request.Request(url)
    if authorization:  # for this host alone: a redirect may lead to another
        ask.add_unredirected_header("Authorization", authorization)
    if start:
        ask.add_header("Range", f"bytes={start}-")
        if validator := _validator_file(target).read_text() if _validator_file(target).exists() else "":
            ask.add_header("If-Range", validator)
    response: http.client.HTTPResponse = urllib.request.urlopen(ask, timeout=TIMEOUT_S)
    return response


def _credentials(url: str) -> tuple[str, str]:
    """Return the address without user and password, and the header that has them."""
    parts = urllib.parse.urlsplit(url)
    user, password = parts.username, parts.password
    if user is None and parts.hostname:
        try:
            login = netrc.netrc(os.environ.get("NETRC")).authenticators(parts.hostname)
        except (OSError, netrc.NetrcParseError):
            login = None
        user, password = (login[0], login[2]) if login else (None, None)
    if user is None:
        return url, ""
    token = base64.b64encode(f"{urllib.parse.unquote(user)}:{urllib.parse.unquote(password or '')}".encode()).decode()
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(), f"Basic {token}"


def _validator_file(target: Path) -> Path:
    return target.with_name("validator")


def _size(target: Path) -> int:
    return target.stat().st_size if target.exists() else 0
