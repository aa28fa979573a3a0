"""Routes: which algorithms answer each of them, and with what weight.

Only the gateway knows routes. Serve has each algorithm under a prefix of its own, which never changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from modelserve.config.section import Section

# In a request, it selects an algorithm of the route; in an answer, it names the algorithm that gave it.
ALGORITHM_HEADER = "X-Modelserve-Algorithm"
FULL_WEIGHT = 100  # a section without a weight gets what the others leave of it


class Limits(BaseModel):
    """What the gateway keeps to in the requests of an algorithm. The defaults are those of releases without limits.

    Attributes:
        max_ongoing_requests: requests that a replica has at the same time; the others wait in the gateway's queue.
        max_queued_requests: longest queue, per replica; None: no limit.
        request_timeout: seconds that a replica has for a request, and that a request waits for a replica; None: no
            limit.
        retry_unanswered: whether a request is sent once more where its replica died before the first byte of an answer.
        scales: whether the number of replicas follows the load, and they learn how many requests wait.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    max_ongoing_requests: int = 100
    max_queued_requests: int | None = None
    request_timeout: float | None = None
    retry_unanswered: bool = False
    scales: bool = False

    @classmethod
    def of(cls, section: Section) -> Limits:
        """Return the limits of a section."""
        return cls(
            max_ongoing_requests=section.concurrency,
            max_queued_requests=section.max_queued_requests,
            request_timeout=section.request_timeout,
            retry_unanswered=section.retry_unanswered,
            scales=section.max_replicas is not None,
        )


class Share(BaseModel):
    """An algorithm behind a route.

    Attributes:
        name: the section's name.
        prefix: its path in Serve.
        weight: its part of the route's requests, relative to the others; 0 gets only requests that name it.
        limits: what the gateway keeps to.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    prefix: str
    weight: int = 1
    limits: Limits = Limits()

    @property
    def backend(self) -> str:
        """The algorithm in the gateway's rules and headers: its prefix, which is ASCII, without the slash."""
        return self.prefix.lstrip("/")


Routes = dict[str, tuple[Share, ...]]


class Served(BaseModel):
    """What the gateway serves.

    Attributes:
        port: the port that clients call.
        routes: the algorithms behind each route; a route has no slashes at its ends.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    port: int
    routes: Routes = {}

    def places(self) -> dict[str, tuple[str, int]]:
        """Return each algorithm's route and weight."""
        return {share.name: (route, share.weight) for route, shares in self.routes.items() for share in shares}

    def percentages(self) -> dict[str, tuple[str, float]]:
        """Return each algorithm's route and its part of that route's requests, in percent."""
        total = {route: sum(share.weight for share in shares) or 1 for route, shares in self.routes.items()}
        return {name: (route, 100 * weight / total[route]) for name, (route, weight) in self.places().items()}

    def without(self, names: Iterable[str]) -> Served:
        """Return the same without these algorithms. The others of their routes get their requests."""
        removed = set(names)
        routes = {}
        for route, shares in self.routes.items():
            remaining = tuple(share for share in shares if share.name not in removed)
            if remaining:
                routes[route] = remaining
        return self.model_copy(update={"routes": routes})

    def keeping(self, old: Served, names: Iterable[str]) -> Served:
        """Return the same, but with these algorithms as ``old`` has them, if it does.

        They get weight 0 where other algorithms have their route now.
        """
        kept = set(names)
        routes = dict(self.without(kept).routes)
        for route, shares in old.routes.items():
            restored = [share for share in shares if share.name in kept]
            if restored and route in routes:
                restored = [share.model_copy(update={"weight": 0}) for share in restored]
            if restored:
                routes[route] = (*routes.get(route, ()), *restored)
        return self.model_copy(update={"routes": routes})


class Conflict(NamedTuple):
    """Sections of one route whose weights contradict each other: the section and key to change, and the fix."""

    section: Section
    key: str
    message: str
    fix: str


def prefix_of(name: str) -> str:
    """Return the path of an algorithm in Serve: ASCII, whatever letters its name has."""
    return f"/{name}" if name.isascii() else f"/xn--{name.encode('punycode').decode()}"


def picking(name: str) -> dict[str, str]:
    """Return the header of a request that only this algorithm may answer."""
    return {ALGORITHM_HEADER: prefix_of(name).lstrip("/")}


def routes_of(sections: Iterable[Section]) -> Routes:
    """Return the routes of sections without :func:`conflicts`."""
    routes = {}
    for route, group in _groups(sections).items():
        total = sum(section.weight or 0 for section in group)
        alone = len(group) == 1
        routes[route] = tuple(
            Share(
                name=section.name,
                prefix=prefix_of(section.name),
                weight=1 if alone else FULL_WEIGHT - total if section.weight is None else section.weight,
                limits=Limits.of(section),
            )
            for section in group
        )
    return routes


def plain(prefixes: Mapping[str, str]) -> Routes:
    """Return routes that are the prefixes at which Serve answers: in old releases, clients called Serve's own routes.

    Args:
        prefixes: each algorithm's prefix in Serve.
    """
    return {prefix.strip("/"): (Share(name=name, prefix=prefix),) for name, prefix in prefixes.items()}


def conflicts(sections: Iterable[Section]) -> Iterator[Conflict]:
    """Yield the contradictions between the weights of sections that have one route."""
    for route, group in _groups(sections).items():
        first, last = group[0], group[-1]
        unweighted = [section for section in group if section.weight is None]
        total = sum(section.weight or 0 for section in group)
        if len(unweighted) > 1:
            fix = "Give each algorithm a route of its own, or share it: 'weight = 10' gives this one 10 of 100 requests"
            yield Conflict(unweighted[1], "route", f"'{route}' is the route of [algopkg.{unweighted[0].name}] too", fix)
        elif unweighted and len(group) > 1 and total >= FULL_WEIGHT:
            name = unweighted[0].name
            message = f"the weights of '{route}' add up to {total} and leave nothing of {FULL_WEIGHT} to {name}"
            other = last if last is not unweighted[0] else first
            yield Conflict(other, "weight", message, f"Lower it, or give [algopkg.{name}] a weight, too")
        elif not unweighted and not total:
            reason = "its weight is 0" if len(group) == 1 else "all its weights are 0"
            message = f"no algorithm would answer '{route}': {reason}"
            yield Conflict(last, "weight", message, "Give a section more than 0")


def _groups(sections: Iterable[Section]) -> dict[str, list[Section]]:
    groups: dict[str, list[Section]] = {}
    for section in sections:
        groups.setdefault(section.route, []).append(section)
    return groups
