"""Is an application what it shall be? Reads Serve's details of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """How far a deployment is: its state and a line about it; for a failure, the replica's own error."""

    class State(enum.Enum):
        WAITING = "waiting"
        HEALTHY = "healthy"
        FAILED = "failed"

    state: Outcome.State
    text: str


def outcome_of(details: dict[str, Any] | None, wanted: dict[str, Any]) -> Outcome:
    """Judge an application.

    Args:
        details: Serve's ``ApplicationDetails``, None where Serve does not know the application.
        wanted: the configuration it was given.
    """
    if details is None:
        return Outcome(Outcome.State.WAITING, "waiting for Serve")
    deployments = details.get("deployments", {}).values()
    if details["status"] in ("DEPLOY_FAILED", "UNHEALTHY"):
        messages = [details.get("message", ""), *(deployment.get("message", "") for deployment in deployments)]
        return Outcome(Outcome.State.FAILED, cause(max(messages, key=len)))
    replicas = [replica for deployment in deployments for replica in deployment.get("replicas", [])]
    running = sum(replica["state"] == "RUNNING" for replica in replicas)
    target = wanted["deployments"][0]["num_replicas"]
    if details["status"] == "RUNNING":
        return Outcome(Outcome.State.HEALTHY, f"running, {running} of {target} replicas")
    return Outcome(Outcome.State.WAITING, f"{details['status'].lower()}, {running} of {target} replicas running")


def cause(message: str) -> str:
    """The line of a Serve message that says why: the exception a traceback ends with."""
    lines = [line.rstrip() for line in message.replace("\\n", "\n").splitlines() if line.strip()]
    errors = [line for line in lines if not line.startswith((" ", "\t")) and ("Error" in line or "Exception" in line)]
    return (errors or lines or ["no reason given"])[-1].strip()
