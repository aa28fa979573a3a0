"""The smoke test: the warm-up request of each served algorithm over HTTP, as a client sends it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from modelserve.config.routes import picking
from modelserve.config.section import Section
from modelserve.deploy.controller import Controller
from modelserve.util.http import local_opener

TIMEOUT_S = 60
MAX_ANSWER_CHARACTERS = 160
MAX_ERROR_BYTES = 300


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


def ask_all(controller: Controller) -> list[SmokeAnswer]:
    """Return the result of every algorithm of conf.ini."""
    conf, _ = controller.read()
    states = {row["name"]: row for row in controller.status()}
    return [_result(section, states.get(section.name), controller) for section in conf.sections]


def _result(section: Section, state: Mapping[str, Any] | None, controller: Controller) -> SmokeAnswer:
    if state is None:
        return SmokeAnswer(section.name, "", False, "is not served: conf.ini was not applied")
    url = state["url"]
    if section.warmup is None:
        text = f"is {state['status']}; no request sent: its section has no 'warmup'"
        return SmokeAnswer(section.name, url, state["status"] == "RUNNING", text)
    return SmokeAnswer(section.name, url, *_ask(url, section, controller.gateway.headers()))


def _ask(url: str, section: Section, credentials: Mapping[str, str]) -> tuple[bool, str]:
    """Return whether the warm-up request succeeded, and the request with its answer."""
    body, method = json.dumps(section.warmup), section.method[0]
    headers = {"Content-Type": "application/json", **picking(section.name), **credentials}
    request = urllib.request.Request(url, body.encode(), headers, method=method)
    sent = f"{method} {url} {body}"
    try:
        with local_opener().open(request, timeout=TIMEOUT_S) as response:
            answer = json.loads(response.read())
    except urllib.error.HTTPError as error:
        return False, f"{sent} answered {error.code}: {error.read()[:MAX_ERROR_BYTES].decode(errors='replace')}"
    except (OSError, ValueError) as error:
        return False, f"{sent} got no answer: {getattr(error, 'reason', error)}"
    text = json.dumps(answer)
    shown = text if len(text) <= MAX_ANSWER_CHARACTERS else text[:MAX_ANSWER_CHARACTERS] + "..."
    # A class of the legacy API may answer any JSON value.
    return not (isinstance(answer, dict) and answer.get("status") == 0), f"{sent} -> {shown}"
