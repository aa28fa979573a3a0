"""Which algorithms answer a route, and with what share of its requests? The gateway's affair: Serve knows each
algorithm by a prefix of its own, which never changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from modelserve.config.section import Section

# Names the algorithm: in a request to pick one of those that share a route, in every answer to tell who gave it.
ALGORITHM_HEADER = "X-Modelserve-Algorithm"
WHOLE = 100  # what a section without a weight fills up to


class Share(BaseModel):
    """An algorithm behind a route.

    Attributes:
        name: the section's name.
        prefix: where Serve answers it.
        weight: its part of the route's requests, in proportion to the others'; 0 is asked by name alone.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    prefix: str
    weight: int = 1


Routes = dict[str, tuple[Share, ...]]


class Served(BaseModel):
    """What the gateway answers: the port clients call, and the algorithms behind each route (without slashes at its
    ends)."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    port: int
    routes: Routes = {}

    def places(self) -> dict[str, tuple[str, int]]:
        """Each algorithm's route and weight."""
        return {share.name: (route, share.weight) for route, shares in self.routes.items() for share in shares}

    def percentages(self) -> dict[str, tuple[str, float]]:
        """Each algorithm's route and its part of that route's requests, 0 to 100."""
        total = {route: sum(share.weight for share in shares) or 1 for route, shares in self.routes.items()}
        return {name: (route, 100 * weight / total[route]) for name, (route, weight) in self.places().items()}

    def without(self, names: Iterable[str]) -> Served:
        """The same, where these algorithms answer no more. Their requests go to those they shared a route with."""
        gone = set(names)
        left = {
            route: tuple(share for share in shares if share.name not in gone) for route, shares in self.routes.items()
        }
        return self.model_copy(update={"routes": {route: shares for route, shares in left.items() if shares}})

    def keeping(self, old: Served, names: Iterable[str]) -> Served:
        """The same, but these algorithms answer as they did in ``old``, if they did: as a standby where their route is
        another's by now."""
        kept = set(names)
        routes = dict(self.without(kept).routes)
        for route, shares in old.routes.items():
            back = [share for share in shares if share.name in kept]
            if back and route in routes:
                back = [share.model_copy(update={"weight": 0}) for share in back]
            if back:
                routes[route] = (*routes.get(route, ()), *back)
        return self.model_copy(update={"routes": routes})


class Conflict(NamedTuple):
    """Sections of one route whose weights contradict each other: the section and key to change, and the fix."""

    section: Section
    key: str
    message: str
    fix: str


def prefix_of(name: str) -> str:
    """Where Serve answers an algorithm: ASCII, whatever letters its name has."""
    return f"/{name}" if name.isascii() else f"/xn--{name.encode('punycode').decode()}"


def picking(name: str) -> dict[str, str]:
    """The header of a request that none but this algorithm shall answer."""
    return {ALGORITHM_HEADER: prefix_of(name).lstrip("/")}


def routes_of(sections: Iterable[Section]) -> Routes:
    """The routes that sections ask for; those of one route must not contradict each other (:func:`conflicts`)."""
    routes = {}
    for route, group in _groups(sections).items():
        given = sum(section.weight or 0 for section in group)
        alone = len(group) == 1
        routes[route] = tuple(
            Share(
                name=section.name,
                prefix=prefix_of(section.name),
                weight=1 if alone else WHOLE - given if section.weight is None else section.weight,
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
        open_ones = [section for section in group if section.weight is None]
        given = sum(section.weight or 0 for section in group)
        if len(open_ones) > 1:
            fix = "Give each algorithm a route of its own, or share it: 'weight = 10' gives this one 10 of 100 requests"
            yield Conflict(open_ones[1], "route", f"'{route}' is the route of [algopkg.{open_ones[0].name}] too", fix)
        elif open_ones and len(group) > 1 and given >= WHOLE:
            message = f"the weights of '{route}' add up to {given} and leave nothing of {WHOLE} to {open_ones[0].name}"
            other = last if last is not open_ones[0] else first
            yield Conflict(other, "weight", message, f"Lower it, or give [algopkg.{open_ones[0].name}] a weight, too")
        elif not open_ones and not given:
            what = "its weight is 0" if len(group) == 1 else "all its weights are 0"
            yield Conflict(last, "weight", f"nobody would answer '{route}': {what}", "Give a section more than 0")


def _groups(sections: Iterable[Section]) -> dict[str, list[Section]]:
    groups: dict[str, list[Section]] = {}
    for section in sections:
        groups.setdefault(section.route, []).append(section)
    return groups
