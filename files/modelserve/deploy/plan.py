"""What would an apply change? A pure comparison of what is wanted with what Serve runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from modelserve.config.routes import Served

# How a diff shows a change's action.
SIGNS = {"add": "+", "change": "~", "remove": "-"}
Apps = Mapping[str, dict[str, Any]]

_ENV = "env"
HIDDEN = "(hidden)"
# What the difference at a place in an application's configuration means to a user, and whether it needs new replicas.
_MEANING: dict[str, tuple[str, bool]] = {
    "args.package": ("code", True),
    "args.backend": ("class", True),
    "args.models": ("model", True),
    "args.methods": ("method", True),
    "args.name": ("name", True),
    "args.configured": ("user_config", True),
    "args.batch_size": ("batch_size", True),
    "args.batch_wait": ("batch_wait", True),
    "runtime_env.env_vars.CONDA_PREFIX": ("environment", True),
    "runtime_env.env_vars.PATH": ("environment", True),
    "runtime_env.env_vars": (_ENV, True),
    "runtime_env": ("environment", True),
    "route_prefix": ("prefix", False),
    "deployments.num_replicas": ("replicas", False),
    "deployments.health_check_period_s": ("health checks", False),
    "deployments.max_ongoing_requests": ("max_ongoing_requests", False),
    "deployments.max_queued_requests": ("max_queued_requests", False),
    "deployments.backpressure_config": ("max_queued_requests", False),
    "deployments.max_surge_percent": ("update", False),
    "deployments.ray_actor_options": ("resources", True),
    "deployments.user_config.user_config": ("user_config", False),
    "deployments.user_config.warmup": ("warmup", False),
    "deployments.user_config.request_timeout": ("request_timeout", False),
    "deployments.user_config.max_queued_requests": ("max_queued_requests", False),
}
# Where Serve adds nothing of its own: what is not wanted any more is a difference, too.
_OURS = ("args.", "runtime_env.", "deployments.user_config.", "deployments.max_queued_", "deployments.backpressure_")
# The gateway's affair: Serve is not told.
_OF_THE_GATEWAY = ("route", "weight")
# Follows from the other places.
_IDENTITY = "deployments.user_config.identity"


@dataclass(frozen=True)
class Difference:
    """One thing that changes in an application: ``what``, from ``old`` to ``new``, with or without new replicas."""

    what: str
    old: Any
    new: Any
    new_replicas: bool

    def as_dict(self) -> dict[str, Any]:
        """For people and logs to read: what a section sets as environment variables may be secret."""
        if self.what != _ENV:
            return dict(vars(self))
        old, new = (None if value is None else HIDDEN for value in (self.old, self.new))
        return {"what": self.what, "old": old, "new": new, "new_replicas": self.new_replicas}


@dataclass(frozen=True)
class Change:
    """What happens to one application: ``action`` is ``add``, ``change`` or ``remove``."""

    action: str
    name: str
    differences: tuple[Difference, ...] = ()

    @property
    def needs_new_replicas(self) -> bool:
        """Whether the replicas there are cannot be changed in place."""
        return any(difference.new_replicas for difference in self.differences)

    @property
    def concerns_serve(self) -> bool:
        """Whether it is more than another route or share of its requests."""
        return self.action != "change" or any(one.what not in _OF_THE_GATEWAY for one in self.differences)


@dataclass(frozen=True)
class Plan:
    """The changes an apply makes, and the names it leaves alone."""

    changes: tuple[Change, ...] = ()
    unchanged: tuple[str, ...] = ()
    port: tuple[int | None, int] | None = field(default=None)

    def __bool__(self) -> bool:
        return bool(self.changes) or self.port is not None

    def summary(self) -> list[str]:
        """What it changes, a line each: ``+ Echo``, ``~ Echo (code, replicas)``, ``- Echo``."""
        lines = [] if self.port is None else [f"~ port {self.port[1]}"]
        for change in self.changes:
            what = ", ".join(difference.what for difference in change.differences)
            lines.append(f"{SIGNS[change.action]} {change.name}" + (f" ({what})" if change.action == "change" else ""))
        return lines

    def as_dict(self) -> dict[str, Any]:
        """The plan as a JSON document."""
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


def compare(wanted: Apps, running: Apps, served: Served, answered: Served | None) -> Plan:
    """Find the differences.

    Args:
        wanted: Serve application configurations by name, as an apply would send them.
        running: the same, as Serve has them.
        served: what the gateway shall answer.
        answered: what it does; None when it has no configuration yet.

    Returns:
        The plan; false when there is nothing to do.
    """
    places, present = served.places(), {} if answered is None else answered.places()
    changes = []
    for name in sorted(set(running) - set(wanted)):
        changes.append(Change("remove", name))
    for name, app in wanted.items():
        if name not in running:
            changes.append(Change("add", name, tuple(_differences({}, app))))
        else:
            moved = _moves(present.get(name, (None, None)), places.get(name, (None, None)))
            differences = (*_differences(running[name], app), *moved)
            if differences:
                changes.append(Change("change", name, differences))
    touched = {change.name for change in changes}
    unchanged = tuple(name for name in wanted if name not in touched)
    port = None if answered is None else answered.port
    return Plan(tuple(changes), unchanged, None if served.port == port else (port, served.port))


def _moves(old: tuple[Any, Any], new: tuple[Any, Any]) -> list[Difference]:
    paths = [None if route is None else f"/{route}" for route, _ in (old, new)]
    pairs = zip(_OF_THE_GATEWAY, (paths[0], old[1]), (paths[1], new[1]), strict=True)
    return [Difference(what, before, after, False) for what, before, after in pairs if before != after]


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[Difference]:
    before, after = _places(old), _places(new)
    found: dict[str, Difference] = {}
    gone = [place for place in before if place not in after and place.startswith(_OURS)]
    for place in [*after, *gone]:  # what else only Serve has are its own defaults
        if place != _IDENTITY and before.get(place) != after.get(place):
            what, new_replicas = _meaning(place)
            earlier = found.get(what)
            if earlier is None:
                found[what] = Difference(what, before.get(place), after.get(place), new_replicas)
            else:
                found[what] = replace(earlier, new_replicas=earlier.new_replicas or new_replicas)
    return list(found.values())


def _meaning(place: str) -> tuple[str, bool]:
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
                if options.get("autoscaling_config"):  # in the place of a number
                    options["num_replicas"] = options.pop("autoscaling_config")
                places |= {f"deployments.{option}": setting for option, setting in options.items()}
        elif key == "args":
            places |= {f"args.{argument}": setting for argument, setting in value.items()}
        elif key == "runtime_env":
            variables = value.get("env_vars") or {}
            places |= {f"runtime_env.{option}": setting for option, setting in value.items() if option != "env_vars"}
            places |= {f"runtime_env.env_vars.{name}": setting for name, setting in variables.items()}
        else:
            places[key] = value
    return places
