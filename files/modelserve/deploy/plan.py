"""The plan of an apply: a pure comparison of the target with what Serve runs and the gateway answers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from modelserve.config.routes import Served
from modelserve.serve.application import Applications

# The sign of an action in a diff.
SIGNS = {"add": "+", "change": "~", "remove": "-"}

_ENV = "env"
MODEL = "model"
_SECRET, _SECRETS = "secret ", "args.secrets."
HIDDEN = "(hidden)"
# The name that users know for a place in an application's document, and whether a difference needs new replicas.
_MEANING: dict[str, tuple[str, bool]] = {
    "args.package": ("code", True),
    "args.backend": ("class", True),
    "args.models": (MODEL, True),
    "args.methods": ("method", True),
    "args.name": ("name", True),
    "args.configured": ("user_config", True),
    "args.batch_size": ("batch_size", True),
    "args.batch_wait": ("batch_wait", True),
    "args.memory_limit": ("memory_limit", True),
    "args.cpu_threads": ("cpu_threads", True),
    "runtime_env.env_vars.CONDA_PREFIX": ("environment", True),
    "runtime_env.env_vars.PATH": ("environment", True),
    "runtime_env.env_vars": (_ENV, True),
    "runtime_env": ("environment", True),
    "route_prefix": ("prefix", False),
    "deployments.num_replicas": ("replicas", False),
    "deployments.health_check_period_s": ("health checks", False),
    "deployments.health_check_timeout_s": ("health checks", False),
    "deployments.graceful_shutdown_timeout_s": ("drain_timeout", False),
    "deployments.max_ongoing_requests": ("max_ongoing_requests", False),
    "deployments.max_queued_requests": ("max_queued_requests", False),
    "deployments.backpressure_config": ("max_queued_requests", False),
    "deployments.max_surge_percent": ("update", False),
    "deployments.ray_actor_options": ("resources", True),
    "deployments.user_config.user_config": ("user_config", False),
    "deployments.user_config.warmup": ("warmup", False),
    "deployments.user_config.request_timeout": ("request_timeout", False),
    "deployments.user_config.max_queued_requests": ("max_queued_requests", False),
    "deployments.user_config.retry_unanswered": ("retry_unanswered", False),
}
# Places where Serve adds nothing of its own: what the target lacks is a difference, too.
_OURS = ("args.", "runtime_env.", "deployments.user_config.", "deployments.max_queued_", "deployments.backpressure_")
# Differences that concern the gateway alone.
_OF_THE_GATEWAY = ("route", "weight")
# Follows from the other places.
_IDENTITY = "deployments.user_config.identity"


@dataclass(frozen=True)
class Difference:
    """One difference of an application.

    Attributes:
        what: its name for users.
        old: the value that runs.
        new: the value of the target.
        new_replicas: whether it needs new replicas.
        details: of models: what changes in them.
    """

    what: str
    old: Any
    new: Any
    new_replicas: bool
    details: tuple[str, ...] = ()

    @property
    def concerns_secret(self) -> bool:
        """Whether it is that of a secret: ``what`` is ``secret <name>``, the values are digests."""
        return self.what.startswith(_SECRET)

    def as_dict(self) -> dict[str, Any]:
        """Return the difference as a JSON document, without environment variables: they may be secret."""
        old, new = self.old, self.new
        if self.what == _ENV or self.concerns_secret:
            old, new = (None if value is None else HIDDEN for value in (old, new))
        details = {"details": list(self.details)} if self.details else {}
        return {"what": self.what, "old": old, "new": new, "new_replicas": self.new_replicas, **details}


@dataclass(frozen=True)
class Change:
    """The change of one application: ``action`` is ``add``, ``change`` or ``remove``."""

    action: str
    name: str
    differences: tuple[Difference, ...] = ()

    @property
    def needs_new_replicas(self) -> bool:
        """Whether running replicas cannot be changed in place."""
        return any(difference.new_replicas for difference in self.differences)

    @property
    def reconfigures(self) -> bool:
        """Whether running replicas are changed in place."""
        others = (*_OF_THE_GATEWAY, "replicas")
        return not self.needs_new_replicas and any(difference.what not in others for difference in self.differences)

    @property
    def concerns_serve(self) -> bool:
        """Whether Serve has to know of it: a route and a weight are the gateway's."""
        return self.action != "change" or any(difference.what not in _OF_THE_GATEWAY for difference in self.differences)


@dataclass(frozen=True)
class Plan:
    """The changes of an apply.

    Attributes:
        changes: the applications that change.
        unchanged: the names of the others.
        port: the gateway's port, old and new, where it changes.
    """

    changes: tuple[Change, ...] = ()
    unchanged: tuple[str, ...] = ()
    port: tuple[int | None, int] | None = field(default=None)

    def __bool__(self) -> bool:
        return bool(self.changes) or self.port is not None

    def summary(self) -> list[str]:
        """Return a line per change: ``+ Echo``, ``~ Echo (code, replicas)``, ``- Echo``."""
        lines = [] if self.port is None else [f"~ port {self.port[1]}"]
        for change in self.changes:
            what = ", ".join(difference.what for difference in change.differences)
            lines.append(f"{SIGNS[change.action]} {change.name}" + (f" ({what})" if change.action == "change" else ""))
        return lines

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as a JSON document."""
        return {
            "changed": bool(self),
            "changes": [
                {
                    "action": change.action,
                    "name": change.name,
                    "differences": [difference.as_dict() for difference in change.differences],
                }
                for change in self.changes
            ],
            "unchanged": list(self.unchanged),
            "port": None if self.port is None else {"old": self.port[0], "new": self.port[1]},
        }


def compare(target: Applications, running: Applications, served: Served, answered: Served | None) -> Plan:
    """Return the plan that leads from what runs to the target.

    Args:
        target: the applications of the target, by name.
        running: the applications that Serve runs.
        served: the routes of the target.
        answered: the routes that the gateway answers; None when it has no configuration yet.

    Returns:
        The plan; false when there is nothing to do.
    """
    places, present = served.places(), {} if answered is None else answered.places()
    changes = [Change("remove", name) for name in sorted(set(running) - set(target))]
    for name, application in target.items():
        document = application.to_serve()
        if name not in running:
            changes.append(Change("add", name, tuple(_differences({}, document))))
        else:
            moved = _moves(present.get(name, (None, None)), places.get(name, (None, None)))
            differences = (*_differences(running[name].to_serve(), document), *moved)
            if differences:
                changes.append(Change("change", name, differences))
    touched = {change.name for change in changes}
    unchanged = tuple(name for name in target if name not in touched)
    port = None if answered is None else answered.port
    return Plan(tuple(changes), unchanged, None if served.port == port else (port, served.port))


def _moves(old: tuple[Any, Any], new: tuple[Any, Any]) -> list[Difference]:
    paths = [None if route is None else f"/{route}" for route, _ in (old, new)]
    pairs = zip(_OF_THE_GATEWAY, (paths[0], old[1]), (paths[1], new[1]), strict=True)
    return [Difference(what, before, after, False) for what, before, after in pairs if before != after]


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[Difference]:
    before, after = _places(old), _places(new)
    differences: dict[str, Difference] = {}
    gone = [place for place in before if place not in after and place.startswith(_OURS)]
    for place in [*after, *gone]:  # other places that only Serve has are its defaults
        if place != _IDENTITY and before.get(place) != after.get(place):
            what, new_replicas = _meaning(place)
            earlier = differences.get(what)
            if earlier is None:
                differences[what] = Difference(what, before.get(place), after.get(place), new_replicas)
            else:
                differences[what] = replace(earlier, new_replicas=earlier.new_replicas or new_replicas)
    return list(differences.values())


def _meaning(place: str) -> tuple[str, bool]:
    if place.startswith(_SECRETS):
        return _SECRET + place.removeprefix(_SECRETS), True
    for prefix, meaning in _MEANING.items():
        if place == prefix or place.startswith(prefix + "."):
            return meaning
    return place, True


def _places(app: dict[str, Any]) -> dict[str, Any]:
    places: dict[str, Any] = {}
    for key, value in app.items():
        if key == "deployments":
            for deployment in value:
                options = {
                    **deployment,
                    **{f"user_config.{k}": v for k, v in deployment.get("user_config", {}).items()},
                }
                options.pop("user_config", None)
                if options.get("autoscaling_config"):  # instead of a number
                    options["num_replicas"] = options.pop("autoscaling_config")
                places |= {f"deployments.{option}": setting for option, setting in options.items()}
        elif key == "args":
            places |= {f"args.{argument}": setting for argument, setting in value.items() if argument != "secrets"}
            # A secret is known by its name: two variables of one section can have the same.
            secrets = value.get("secrets") or {}
            for variable, secret in sorted(secrets.items()):
                places.setdefault(f"args.secrets.{secret['name']}", {"digest": secret["digest"]})[variable] = True
        elif key == "runtime_env":
            variables = value.get("env_vars") or {}
            places |= {f"runtime_env.{option}": setting for option, setting in value.items() if option != "env_vars"}
            places |= {f"runtime_env.env_vars.{name}": setting for name, setting in variables.items()}
        else:
            places[key] = value
    return places
