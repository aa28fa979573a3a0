"""Asks each served algorithm its warm-up request over HTTP, as a client would."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from modelserve.config.routes import picking
from modelserve.config.section import Section
from modelserve.deploy.controller import Controller
from modelserve.util.http import local_opener

TIMEOUT_S = 60
SHOWN = 160  # characters of an answer


def ask_all(controller: Controller) -> list[dict[str, Any]]:
    """Ask every algorithm of conf.ini.

    Returns:
        A row each: ``name``, ``url``, ``ok``, ``text`` (the request and its answer, or what went wrong).
    """
    parsed, _ = controller.read()
    states = {row["name"]: row for row in controller.status()}
    rows = []
    for section in parsed.sections:
        state = states.get(section.name)
        row = {"name": section.name, "url": state["url"] if state else "", "ok": False}
        if state is None:
            row["text"] = "is not served: conf.ini was not applied"
        elif section.warmup is None:
            row["ok"] = state["status"] == "RUNNING"
            row["text"] = f"is {state['status']}; no question asked: its section has no 'warmup'"
        else:
            row["ok"], row["text"] = _ask(state["url"], section, controller.gateway.headers())
        rows.append(row)
    return rows


def _ask(url: str, section: Section, own: dict[str, str]) -> tuple[bool, str]:
    body, method = json.dumps(section.warmup), section.method[0]
    headers = {"Content-Type": "application/json", **picking(section.name), **own}
    request = urllib.request.Request(url, body.encode(), headers, method=method)
    asked = f"{method} {url} {body}"
    try:
        with local_opener().open(request, timeout=TIMEOUT_S) as response:
            answer = json.loads(response.read())
    except urllib.error.HTTPError as error:
        return False, f"{asked} answered {error.code}: {error.read()[:300].decode(errors='replace')}"
    except (OSError, ValueError) as error:
        return False, f"{asked} got no answer: {getattr(error, 'reason', error)}"
    text = json.dumps(answer)
    return answer.get("status") != 0, f"{asked} -> {text if len(text) <= SHOWN else text[:SHOWN] + '...'}"
