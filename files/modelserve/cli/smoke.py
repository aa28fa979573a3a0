"""The smoke test: the warm-up request of each served algorithm over HTTP, as a client sends it."""

from __future__ import annotations

import base64
import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from modelserve.config.routes import picking
from modelserve.config.section import Section
from modelserve.deploy.controller import Controller
from modelserve.serve.contract import SCHEMA_PATH
from modelserve.util.http import local_opener

TIMEOUT_S = 60
MAX_ANSWER_CHARACTERS = 160
MAX_ERROR_BYTES = 300
MAX_ANSWER_BYTES = 64 * 2**20
CHUNK_BYTES = 64 * 1024


@dataclass(frozen=True)
class SmokeAnswer:
    """The result of the smoke test of one algorithm.

    Attributes:
        name: the algorithm.
        url: URL of its route; empty where it is not served.
        ok: whether it passed.
        text: the request and its answer, or the cause of the failure.
    """

    name: str
    url: str
    ok: bool
    text: str

    def __str__(self) -> str:
        """Return the line for people."""
        return f"{'ok  ' if self.ok else 'FAIL'} {self.name}: {self.text}"

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON document."""
        return asdict(self)


def ask_all(controller: Controller, packages: Path) -> list[SmokeAnswer]:
    """Return the result of every algorithm of conf.ini.

    Args:
        controller: the head's controller.
        packages: the directory of the packages, whose files a warm-up may name.
    """
    conf, _ = controller.read()
    states = {row["name"]: row for row in controller.status()}
    return [_result(section, states.get(section.name), controller, packages) for section in conf.sections]


def _result(section: Section, state: Mapping[str, Any] | None, controller: Controller, packages: Path) -> SmokeAnswer:
    if state is None:
        return SmokeAnswer(section.name, "", False, "is not served: conf.ini was not applied")
    url = state["url"]
    if section.warmup is None:
        text = f"is {state['status']}; no request sent: its section has no 'warmup'"
        return SmokeAnswer(section.name, url, state["status"] == "RUNNING", text)
    return SmokeAnswer(section.name, url, *ask(url, section, controller.gateway.headers(), packages))


def ask(url: str, section: Section, credentials: Mapping[str, str], packages: Path) -> tuple[bool, str]:
    """Return whether the warm-up request succeeded, and the request with its answer."""
    method = section.method[0]
    headers = {**picking(section.name), **credentials}
    try:
        body, content_type, shown = request_body(url, section.warmup or {}, headers, packages / section.name)
    except ValueError as error:
        return False, str(error)
    request = urllib.request.Request(url, body, {"Content-Type": content_type, **headers}, method=method)
    sent = f"{method} {url} {shown}"
    try:
        with local_opener().open(request, timeout=TIMEOUT_S) as response:
            answer = _read(response)
            passed, text = judge(response.headers.get("Content-Type", ""), answer)
    except urllib.error.HTTPError as error:
        return False, f"{sent} answered {error.code}: {error.read()[:MAX_ERROR_BYTES].decode(errors='replace')}"
    except (OSError, ValueError, http.client.HTTPException) as error:
        return False, f"{sent} got no answer: {getattr(error, 'reason', error)}"
    return passed, f"{sent} -> {text}"


def request_body(
    url: str, params: Mapping[str, Any], headers: Mapping[str, str], package: Path
) -> tuple[bytes, str, str]:
    """Return the body of a request, its content type, and how a line shows it.

    Args:
        url: URL of the route, which says whether the inference takes a file.
        params: the request, with ``{"file": "<name>"}`` in the place of a file.
        headers: what the gateway wants of a request.
        package: the package's directory, which has the files.

    Raises:
        ValueError: a file is not in the package.
    """
    from modelserve.replica.fields import Fields, is_file_name, names_files  # they load what other commands do without
    from modelserve.replica.inputs import package_file

    text = json.dumps(params)
    document = _schema(url, headers) if names_files(params) else {}
    fields = Fields(document.get("input", {}))
    if fields.is_file and is_file_name(params):
        upload = package_file(params["file"], package)
        return upload.read(), upload.content_type, f"<{upload.filename}, {upload.size} bytes>"
    filled = fields.with_files(params, lambda name, _: base64.b64encode(package_file(name, package).read()).decode())
    return json.dumps(filled).encode(), "application/json", text


def _schema(url: str, headers: Mapping[str, str]) -> dict[str, Any]:
    """Return what an algorithm says of its types; empty where it does not answer: the warm-up request tells why."""
    request = urllib.request.Request(url + SCHEMA_PATH, headers=dict(headers))
    try:
        with local_opener().open(request, timeout=TIMEOUT_S) as response:
            document = json.load(response)
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _read(response: http.client.HTTPResponse) -> bytes:
    """Return an answer to its end; a stream may take a while.

    Raises:
        ValueError: it does not end within the limits.
    """
    deadline = time.monotonic() + TIMEOUT_S
    content = bytearray()
    while part := response.read1(CHUNK_BYTES):
        content += part
        if len(content) > MAX_ANSWER_BYTES:
            raise ValueError(f"it is longer than {MAX_ANSWER_BYTES} bytes")
        if time.monotonic() > deadline:
            raise ValueError(f"it did not end within {TIMEOUT_S} s, after {len(content)} bytes")
    return bytes(content)


def judge(content_type: str, content: bytes) -> tuple[bool, str]:
    """Return whether an answer with a status of success is one, and how a line shows it.

    Args:
        content_type: its ``Content-Type``; without one it must be JSON.
        content: its body.

    Raises:
        ValueError: it is not the JSON that it should be.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in ("", "application/json"):
        answer = json.loads(content)
        # A class of the legacy API may answer any JSON value.
        return not _is_failure(answer), _shortened(json.dumps(answer))
    described = f"{media_type}, {len(content)} bytes"
    if media_type == "application/x-ndjson":
        lines = content.splitlines()
        return not (lines and _is_failure(json.loads(lines[-1]))), f"{described}: {_shortened(content.decode())}"
    if media_type.startswith("text/"):
        failed = media_type == "text/event-stream" and b"event: error\n" in content
        return not failed, f"{described}: {_shortened(content.decode(errors='replace'))}"
    return True, described


def _is_failure(answer: Any) -> bool:
    return isinstance(answer, dict) and answer.get("status") == 0


def _shortened(text: str) -> str:
    line = text.replace("\n", "\\n")
    return line if len(line) <= MAX_ANSWER_CHARACTERS else line[:MAX_ANSWER_CHARACTERS] + "..."
