"""How the keys of a section belong together: which mean nothing alone, and which contradict each other."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelserve.config.section import Section

# A key, and the one without which it means nothing.
_NEEDS = {"min_replicas": "max_replicas", "target_ongoing_requests": "max_replicas", "batch_wait": "batch_size"}


@dataclass(frozen=True)
class Contradiction:
    """What does not go together: the keys, the first one most to blame, what is wrong, and the way out."""

    keys: tuple[str, ...]
    message: str
    fix: str


def contradictions(section: Section, own: Container[str]) -> Iterator[Contradiction]:
    """Find what does not go together in a section whose values are right one by one.

    Args:
        section: the section, the values of [DEFAULTS] in it.
        own: the keys it has itself.
    """
    for key, needed in _NEEDS.items():
        if key in own and (needed not in section.model_fields_set or getattr(section, needed) is None):
            yield Contradiction((key,), f"means nothing without {needed}", f"Add {needed}, or remove it")
    yield from _of_scaling(section)
    if section.batch_size > section.max_ongoing_requests:
        yield Contradiction(
            ("batch_size", "max_ongoing_requests"),
            f"batch_size ({section.batch_size}) is more than max_ongoing_requests ({section.max_ongoing_requests}): "
            "so many requests never meet in a replica",
            f"Write max_ongoing_requests = {section.batch_size} or more",
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
    if section.target_ongoing_requests > section.max_ongoing_requests:
        yield Contradiction(
            ("target_ongoing_requests", "max_ongoing_requests"),
            f"target_ongoing_requests ({section.target_ongoing_requests:g}) is more than max_ongoing_requests "
            f"({section.max_ongoing_requests}): a replica never holds so many",
            "Lower the one or raise the other",
        )
