"""Rules between the keys of a section: keys that need another key, and values that contradict each other."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelserve.config.section import Section

# Keys, each with the key that it needs.
_NEEDS = {"min_replicas": "max_replicas", "target_ongoing_requests": "max_replicas", "batch_wait": "batch_size"}


@dataclass(frozen=True)
class Contradiction:
    """Keys that contradict each other, the one to change first; the message, and the fix."""

    keys: tuple[str, ...]
    message: str
    fix: str


def contradictions(section: Section, own: Container[str]) -> Iterator[Contradiction]:
    """Yield the contradictions of a section whose values are valid one by one.

    Args:
        section: the section, with the values of [DEFAULTS].
        own: the keys that the section itself has.
    """
    for key, needed in _NEEDS.items():
        if key in own and (needed not in section.model_fields_set or getattr(section, needed) is None):
            yield Contradiction((key,), f"means nothing without {needed}", f"Add {needed}, or remove it")
    for name in sorted(section.secret.keys() & section.env.keys()):
        yield Contradiction(
            (f"secret.{name}", f"env.{name}"), f"{name} is also set by env.{name}", "Remove one of them"
        )
    yield from _of_scaling(section)
    if section.batch_size > section.concurrency:
        yield Contradiction(
            ("batch_size", "max_ongoing_requests"),
            f"batch_size ({section.batch_size}) is more than max_ongoing_requests ({section.concurrency}): "
            "a replica never has so many requests",
            f"Write max_ongoing_requests = {section.batch_size} or more",
        )
    if 0 < section.memory_limit < section.memory:
        yield Contradiction(
            ("memory_limit", "memory"),
            f"memory_limit ({section.memory_limit} bytes) is less than memory ({section.memory} bytes): a replica ends "
            "before it uses what it reserves",
            "Raise memory_limit or lower memory",
        )


def _of_scaling(section: Section) -> Iterable[Contradiction]:
    low, high = section.min_replicas, section.max_replicas
    if high is None:
        return
    if low > high:
        yield Contradiction(
            ("min_replicas", "max_replicas"), f"min_replicas ({low}) is more than max_replicas ({high})", "Swap them"
        )
    elif "replicas" in section.model_fields_set and not low <= section.replicas <= high:
        yield Contradiction(
            ("replicas", "max_replicas", "min_replicas"),
            f"replicas ({section.replicas}) is not between min_replicas ({low}) and max_replicas ({high})",
            "With max_replicas it is the number a deploy starts: correct it, or remove it",
        )
    if section.target_ongoing_requests > section.concurrency:
        yield Contradiction(
            ("target_ongoing_requests", "max_ongoing_requests"),
            f"target_ongoing_requests ({section.target_ongoing_requests:g}) is more than max_ongoing_requests "
            f"({section.concurrency}): a replica never holds so many",
            "Lower the one or raise the other",
        )
