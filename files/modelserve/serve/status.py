"""Serve's details of its applications, typed, and the judgement whether an application is as it was configured.

Source: ``ServeInstanceDetails``, ``ApplicationDetails``, ``DeploymentDetails`` and ``ReplicaDetails`` of
``ray/serve/schema.py``, Ray 2.60.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, replace
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from modelserve.errors import UserError
from modelserve.serve.application import Application, Autoscaling
from modelserve.serve.contract import UserConfig

# How many observations in a row make an outcome certain.
SUCCESS_THRESHOLD = 2
# A change in place shows in the configuration before it does in the replicas, and while other replicas drain the
# deployment's status does not tell when it is done.
SUCCESS_THRESHOLD_WHILE_DRAINING = 8
FAILURE_THRESHOLD = 1
# 20 s: a replica that died with its node makes an application unhealthy until its successor runs.
FAILURE_THRESHOLD_AFTER_START = 80
# A deployment's status while the load, not a deploy, changes its replicas.
SCALING = ("HEALTHY", "UPSCALING", "DOWNSCALING")
FAILURES = ("DEPLOY_FAILED", "UNHEALTHY")
STOPPED = ("STOPPING", "STOPPED")
# A replica on a node that is drained, which serves until its successor runs.
MIGRATING = "PENDING_MIGRATION"
# Serve's cause of a failure where the process of a replica ended.
ACTOR_DIED = "its replica died (ActorDiedError)"
# The trigger of a deployment's status when a replica that had started fails.
STARTED_REPLICA_FAILED = "HEALTH_CHECK_FAILED"


class _Details(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Replica(_Details):
    """A replica: its id, its state, and where it runs. It has a node as soon as Ray has found capacity for it."""

    replica_id: str = ""
    state: str
    node_id: str | None = None
    node_ip: str | None = None
    log_file_path: str | None = None

    @property
    def is_stopping(self) -> bool:
        """Whether Serve stops it."""
        return self.state in STOPPED


class DeploymentConfig(_Details):
    """The target revision of a deployment, with defaults that Serve adds."""

    user_config: Any = None
    autoscaling_config: dict[str, Any] | None = None


class Deployment(_Details):
    """A deployment: its status, the number of replicas that Serve keeps to, and its replicas."""

    status: str = ""
    status_trigger: str = ""
    message: str = ""
    target_num_replicas: int = 0
    deployment_config: DeploymentConfig = DeploymentConfig()
    replicas: tuple[Replica, ...] = ()

    @field_validator("target_num_replicas", mode="before")
    @classmethod
    def _none_is_zero(cls, value: Any) -> Any:
        return 0 if value is None else value  # while Serve builds the application


class ApplicationStatus(_Details):
    """An application in Serve.

    Attributes:
        status: ``ApplicationStatus`` of Serve.
        message: cause of a failure.
        route_prefix: the path at which Serve answers it.
        deployments: by name; an application of modelserve has one.
        deployed_app_config: ``ServeApplicationSchema`` that it was given.
    """

    status: str
    message: str = ""
    route_prefix: str | None = None
    deployments: dict[str, Deployment] = {}
    deployed_app_config: dict[str, Any] | None = None

    @field_validator("deployments", mode="before")
    @classmethod
    def _none_is_empty(cls, value: Any) -> Any:
        return {} if value is None else value

    @property
    def replicas(self) -> tuple[Replica, ...]:
        """The replicas of all deployments."""
        return tuple(replica for deployment in self.deployments.values() for replica in deployment.replicas)

    def replica_ids(self, state: str = "") -> set[str]:
        """Return the ids of the replicas in a state; without one, of all replicas."""
        return {replica.replica_id for replica in self.replicas if state in ("", replica.state)}

    @property
    def draining(self) -> bool:
        """Whether a replica is stopping."""
        return any(replica.state == "STOPPING" for replica in self.replicas)

    @property
    def target_num_replicas(self) -> int:
        """The number of replicas that Serve keeps to; 0 while it does not tell."""
        return sum(deployment.target_num_replicas for deployment in self.deployments.values())

    @property
    def application(self) -> Application | None:
        """The application that Serve was given; None for one that is not modelserve's."""
        try:
            return Application.from_serve(self.deployed_app_config or {})
        except ValueError:
            return None

    @property
    def failure(self) -> str:
        """The cause of a failure in one line: the error of a replica, where there is one."""
        messages = [self.message, *(deployment.message for deployment in self.deployments.values())]
        text = cause(max(messages, key=len))
        return ACTOR_DIED if text == "ActorDiedError()" else text


Statuses = Mapping[str, ApplicationStatus]


def statuses_of(details: Mapping[str, Any]) -> dict[str, ApplicationStatus]:
    """Return the applications of a ``ServeInstanceDetails`` document by name.

    Raises:
        UserError: it is not such a document.
    """
    try:
        applications = details.get("applications") or {}
        return {name: ApplicationStatus.model_validate(document) for name, document in applications.items()}
    except (ValidationError, AttributeError) as error:
        text = " ".join(str(error).split())[:300]
        raise UserError(f"Ray's details of Serve are not what Ray 2.60 writes: {text}") from None


def running_applications(statuses: Statuses) -> dict[str, Application]:
    """Return what Serve was given, by name, without what it deletes.

    Raises:
        UserError: Serve runs an application that is not modelserve's. The next change would remove it.
    """
    running = {}
    for name, status in statuses.items():
        if status.deployed_app_config and status.status != "DELETING":
            try:
                running[name] = Application.from_serve(status.deployed_app_config)
            except ValueError as error:
                fix = "Delete it, or serve it on another cluster: modelserve owns all applications of its own"
                raise UserError(f"Serve runs {name}: {error}", fix) from None
    return running


def replicas_by_node(statuses: Statuses) -> dict[str, list[str]]:
    """Return the names of the applications that have replicas on a node, once per replica, by node id.

    A replica that stops has a successor already and drains by itself; one without a node waits for capacity.
    """
    placed: dict[str, list[str]] = {}
    for name, replica in _named_replicas(statuses):
        if replica.state not in STOPPED and replica.node_id:
            placed.setdefault(replica.node_id, []).append(name)
    return placed


def unschedulable(name: str, statuses: Statuses) -> bool:
    """Return whether a replica of an application waits for resources that no stopping replica is about to free."""
    replicas = list(_named_replicas(statuses))
    waits = any(owner == name and replica.state == "STARTING" and not replica.node_id for owner, replica in replicas)
    return waits and not any(replica.state == "STOPPING" for _, replica in replicas)


def _named_replicas(statuses: Statuses) -> Iterator[tuple[str, Replica]]:
    for name, status in statuses.items():
        for replica in status.replicas:
            yield name, replica


@dataclass(frozen=True)
class Waiting:
    """An application that is not there yet.

    Attributes:
        text: its progress; empty where there is nothing to report.
        starting: whether it lacks replicas, for which missing capacity may be the cause.
    """

    text: str
    starting: bool = True


@dataclass(frozen=True)
class Healthy:
    """An application that answers as configured.

    Attributes:
        text: its progress.
        success_threshold: observations in a row after which that is certain.
    """

    text: str
    success_threshold: int = SUCCESS_THRESHOLD


@dataclass(frozen=True)
class Failed:
    """An application that failed.

    Attributes:
        text: the cause, a replica's own error where there is one.
        failure_threshold: observations in a row after which that is certain.
    """

    text: str
    failure_threshold: int = FAILURE_THRESHOLD


Outcome = Waiting | Healthy | Failed


def outcome_of(
    status: ApplicationStatus | None, target: Application, retired: Set[str], reconfigures: bool = False
) -> Outcome:
    """Judge one snapshot of an application that is deployed.

    Serve reports RUNNING only when the old replicas have drained, half a minute after the new ones took over. A user
    needs the new ones to answer, so the replicas are judged.

    Args:
        status: the application in Serve, None where Serve does not know it.
        target: what Serve was given.
        retired: ids of replicas that are not of the target revision, for a change that needs new replicas.
        reconfigures: whether running replicas are changed in place. Serve puts that off while it stops others, and its
            own status tells when it is done.
    """
    if status is None:
        return Waiting("waiting for Serve")
    if status.status not in FAILURES:
        return _progress(status, target, retired, reconfigures)
    triggers = {deployment.status_trigger for deployment in status.deployments.values()}
    # During an update, Serve also reports DEPLOY_FAILED when a running replica fails its health check, for example on
    # a node that died. Serve replaces it.
    after_start = status.status == "UNHEALTHY" or STARTED_REPLICA_FAILED in triggers
    failed = Failed(status.failure, FAILURE_THRESHOLD_AFTER_START if after_start else FAILURE_THRESHOLD)
    # After the replacement the status stays until the last old replica has drained.
    if after_start and status.draining:
        progress = _progress(status, target, retired, reconfigures)
        if isinstance(progress, Healthy):
            return progress
    return failed


def _progress(
    status: ApplicationStatus, target: Application, retired: Set[str], reconfigures: bool
) -> Waiting | Healthy:
    if not at_target(status, target) or status.route_prefix != target.prefix:
        return Waiting("starting")
    running = status.replica_ids("RUNNING")
    current = running - retired
    count = target_replicas(status, target)
    unready = {replica.state for replica in status.replicas} - {"RUNNING", *STOPPED}
    if target.autoscaling is None:
        steady: tuple[str, ...] = ("HEALTHY",)
        enough = len(current) == count and not unready
    else:
        # Replicas beyond these are the load's: they may not fit the cluster, and are not part of a deploy.
        least = min(count, max(target.autoscaling.minimum, target.autoscaling.initial or 0))
        # That no replica runs proves something only once Serve reports the deployment as healthy.
        steady = SCALING if least else ("HEALTHY",)
        enough = len(current) >= least and unready <= {"STARTING"}
    # While old replicas drain, the deployment's own status does not describe the new ones.
    settled = all(deployment.status in steady for deployment in status.deployments.values())
    updated = settled or (status.draining and not reconfigures)
    text = f"{len(current)} of {count} replicas running"
    if enough and not updated and status.draining:
        text += ", which change once replaced replicas have finished their requests"
    if not (enough and updated and not running & retired):
        return Waiting(text)
    return Healthy(text, SUCCESS_THRESHOLD_WHILE_DRAINING if status.draining and not retired else SUCCESS_THRESHOLD)


def target_replicas(status: ApplicationStatus, target: Application | None) -> int:
    """Return the number of replicas that Serve keeps to: the section's, or what autoscaling makes of the load."""
    if target is None:
        return status.target_num_replicas or 1
    return target.replicas if target.autoscaling is None else status.target_num_replicas


def at_target(status: ApplicationStatus | None, target: Application) -> bool:
    """Return whether Serve has built the application and brings its replicas to ``target``."""
    if status is None or len(status.deployments) != 1:
        return False
    (config,) = (deployment.deployment_config for deployment in status.deployments.values())
    try:
        if UserConfig.model_validate(config.user_config) != target.user_config:
            return False
    except ValidationError:
        return False
    scaling = Autoscaling.from_serve(config.autoscaling_config)
    if scaling is None or target.autoscaling is None:
        return scaling is target.autoscaling
    # Where a section has no initial number, Serve may show one of its own.
    initial = scaling.initial if target.autoscaling.initial is None else target.autoscaling.initial
    return scaling == replace(target.autoscaling, initial=initial)


def status_text(status: ApplicationStatus) -> str:
    """Return an application's status for users.

    Returns:
        ``RUNNING`` while replaced replicas still drain, ``STOPPING`` when it was removed from conf.ini, else Serve's
        own status.
    """
    if status.status == "DELETING":
        return "STOPPING"
    target = status.application if status.status == "DEPLOYING" else None
    if target is not None and isinstance(outcome_of(status, target, set()), Healthy):
        return "RUNNING"
    return status.status


def cause(message: str) -> str:
    """Return the line of a Serve message that has the cause: the exception that a traceback ends with."""
    lines = [line.rstrip() for line in message.replace("\\n", "\n").splitlines() if line.strip()]
    errors = [line for line in lines if not line.startswith((" ", "\t")) and ("Error" in line or "Exception" in line)]
    return (errors or lines or ["no reason given"])[-1].strip()
