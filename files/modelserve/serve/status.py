"""Is an application what it shall be? Reads Serve's details of it."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Any

SIGHTINGS = 2
SIGHTINGS_WHILE_DRAINING = 8
# 20 s: a replica that died with its node makes an application unhealthy until its successor runs.
SIGHTINGS_OF_UNHEALTHY = 80
# A deployment's status while the load, not a deploy, changes its replicas.
SCALING = ("HEALTHY", "UPSCALING", "DOWNSCALING")
RAN = "HEALTH_CHECK_FAILED"  # Serve's status_trigger of a deployment whose replica had started


@dataclass(frozen=True)
class Outcome:
    """How far a deployment is: its state and a line about it; for a failure, the replica's own error.

    ``sightings`` is how often in a row an outcome must be seen to be believed.
    """

    class State(enum.Enum):
        WAITING = "waiting"
        HEALTHY = "healthy"
        FAILED = "failed"

    state: Outcome.State
    text: str
    sightings: int = 1


def outcome_of(details: dict[str, Any] | None, wanted: dict[str, Any], before: set[str]) -> Outcome:
    """Judge an application while it is deployed.

    Serve reports RUNNING only when the old replicas have drained, half a minute after the new ones took over. What
    counts for a user is that the new ones answer, so the replicas are judged.

    Args:
        details: Serve's ``ApplicationDetails``, None where Serve does not know the application.
        wanted: the configuration it was given.
        before: ids of replicas that cannot be the wanted ones, for a change that needs new ones.
    """
    if details is None:
        return Outcome(Outcome.State.WAITING, "waiting for Serve")
    deployments = list(details.get("deployments", {}).values())
    if details["status"] in ("DEPLOY_FAILED", "UNHEALTHY"):
        messages = [details.get("message", ""), *(deployment.get("message", "") for deployment in deployments)]
        # During an update Serve calls it DEPLOY_FAILED, too, when a replica that runs fails its health check: one on a
        # node that died a moment ago, say. Serve replaces it.
        ran = details["status"] == "UNHEALTHY" or any(d.get("status_trigger") == RAN for d in deployments)
        failed = Outcome(Outcome.State.FAILED, cause(max(messages, key=len)), SIGHTINGS_OF_UNHEALTHY if ran else 1)
        # Once it has, Serve's word stays until the last old one has drained: the replicas are judged meanwhile.
        if not (ran and any(replica["state"] == "STOPPING" for replica in _replicas(details))):
            return failed
        found = outcome_of({**details, "status": "DEPLOYING"}, wanted, before)
        return found if found.state is Outcome.State.HEALTHY else failed
    scaling = wanted["deployments"][0].get("autoscaling_config")
    target = target_of(details, wanted)
    replicas = [replica for deployment in deployments for replica in deployment.get("replicas", [])]
    if not aims_at(details, wanted) or details["route_prefix"] != wanted["route_prefix"]:
        return Outcome(Outcome.State.WAITING, "starting")
    current = {replica["replica_id"] for replica in replicas if replica["state"] == "RUNNING"} - before
    settling = {replica["state"] for replica in replicas} - {"RUNNING", "STOPPING", "STOPPED"}
    old = {replica["replica_id"] for replica in replicas if replica["state"] == "RUNNING"} & before
    text = f"{len(current)} of {target} replicas running"
    # While old replicas drain, the deployment's own status says nothing of the new ones.
    draining = any(replica["state"] == "STOPPING" for replica in replicas)
    if scaling:
        # What the load asks for beyond that may not fit the cluster, and is no part of a deploy.
        least = min(target, max(scaling["min_replicas"], scaling.get("initial_replicas", 0)))
        # None running proves something only once Serve is content with that.
        steady = SCALING if least else ("HEALTHY",)
        enough = len(current) >= least and settling <= {"STARTING"}
    else:
        steady = ("HEALTHY",)
        enough = len(current) == target and not settling
    updated = draining or all(deployment["status"] in steady for deployment in deployments)
    healthy = enough and updated and not old
    # A change in place shows in the configuration before it does in the replicas, and while others drain the
    # deployment's status does not tell when it is done.
    sightings = SIGHTINGS_WHILE_DRAINING if draining and not before else SIGHTINGS
    return Outcome(Outcome.State.HEALTHY if healthy else Outcome.State.WAITING, text, sightings)


def replica_ids(details: dict[str, Any] | None, state: str = "") -> set[str]:
    """The ids of the replicas in Serve's details of an application: of all, or of those in a state."""
    return {replica["replica_id"] for replica in _replicas(details) if state in ("", replica["state"])}


def room_missing(name: str, applications: dict[str, Any]) -> bool:
    """Whether a replica of the application waits for resources that no stopping replica is about to free.

    Args:
        name: the application.
        applications: Serve's details of all, by name.
    """
    # A replica has a node as soon as Ray found room for it, long before it has loaded its model.
    waits = any(r["state"] == "STARTING" and not r.get("node_id") for r in _replicas(applications.get(name)))
    frees = any(r["state"] == "STOPPING" for details in applications.values() for r in _replicas(details))
    return waits and not frees


def _replicas(details: dict[str, Any] | None) -> list[dict[str, Any]]:
    deployments = (details or {}).get("deployments", {}).values()
    return [replica for deployment in deployments for replica in deployment.get("replicas", [])]


def target_of(details: dict[str, Any], wanted: dict[str, Any]) -> int:
    """How many replicas Serve aims at: the section's number, or what autoscaling makes of the load."""
    options = (wanted.get("deployments") or [{}])[0]
    if not options.get("autoscaling_config"):
        return int(options.get("num_replicas") or 1)
    return sum(deployment.get("target_num_replicas", 0) for deployment in details.get("deployments", {}).values())


def may_rest(wanted: dict[str, Any]) -> bool:
    """Whether an application may have no replica at all while nobody asks it anything."""
    return (wanted["deployments"][0].get("autoscaling_config") or {}).get("min_replicas") == 0


def aims_at(details: dict[str, Any] | None, wanted: dict[str, Any]) -> bool:
    """Whether Serve has finished building the application and brings its replicas to ``wanted``."""
    deployments = (details or {}).get("deployments", {}).values()
    expected = wanted["deployments"][0]
    found = [deployment["deployment_config"] for deployment in deployments]
    if [config.get("user_config") for config in found] != [expected["user_config"]]:
        return False
    shown, scaling = found[0].get("autoscaling_config") or {}, expected.get("autoscaling_config") or {}
    # Serve shows its own defaults beside what it was given.
    return bool(shown) == bool(scaling) and all(shown.get(key) == value for key, value in scaling.items())


def status_of(details: dict[str, Any]) -> str:
    """An application's status as users mean it: ``RUNNING`` while replaced replicas still drain, ``STOPPING`` when it
    was taken out of conf.ini, else Serve's own word."""
    wanted = details.get("deployed_app_config")
    if details["status"] == "DELETING":
        return "STOPPING"
    if (
        details["status"] == "DEPLOYING"
        and wanted
        and outcome_of(details, wanted, set()).state is Outcome.State.HEALTHY
    ):
        return "RUNNING"
    return str(details["status"])


def cause(message: str) -> str:
    """The line of a Serve message that says why: the exception a traceback ends with."""
    lines = [line.rstrip() for line in message.replace("\\n", "\n").splitlines() if line.strip()]
    errors = [line for line in lines if not line.startswith((" ", "\t")) and ("Error" in line or "Exception" in line)]
    return (errors or lines or ["no reason given"])[-1].strip()
