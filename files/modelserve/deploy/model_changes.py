"""Name what changes in the models of a plan: files, and how large they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from modelserve.deploy.plan import MODEL, Change, Difference, Plan
from modelserve.store import integrity
from modelserve.store.model_store import Listing
from modelserve.util.disk import size_text

SHOWN_FILES = 4


def described(plan: Plan, working: Mapping[str, Listing]) -> Plan:
    """Return a plan whose differences of models have details.

    Args:
        plan: the plan.
        working: the content of the working models, by the paths that they have, or get, in the store.
    """
    return replace(plan, changes=tuple(_of_change(change, working) for change in plan.changes))


def _of_change(change: Change, working: Mapping[str, Listing]) -> Change:
    if change.action != "change":
        return change
    differences = [
        replace(difference, details=_details(difference, working)) if difference.what == MODEL else difference
        for difference in change.differences
    ]
    return replace(change, differences=tuple(differences))


def _details(difference: Difference, working: Mapping[str, Listing]) -> tuple[str, ...]:
    old, new = ({Path(path).name: path for path in paths or ()} for paths in (difference.old, difference.new))
    details = []
    for name, path in new.items():
        if name not in old:
            details.append(f"{name} added{_size(path, working)}")
        elif path != old[name]:
            before, after = _files(old[name], {}), _files(path, working)
            files = f": {_files_text(before, after)}" if before and after else ""
            details.append(f"{name} changed{_size(path, working)}{files}")
    return (*details, *(f"{name} removed" for name in old if name not in new)) or ("order changed",)


def _files_text(before: Mapping[str, str], after: Mapping[str, str]) -> str:
    parts = [f"{name} added" for name in after if name not in before]
    parts += [f"{name} changed" for name in after if name in before and before[name] != after[name]]
    parts += [f"{name} removed" for name in before if name not in after]
    return _some(parts)


def _some(parts: Sequence[str]) -> str:
    others = len(parts) - SHOWN_FILES
    return ", ".join(parts[:SHOWN_FILES]) + (f" and {others} more" if others > 0 else "")


def _files(path: str, working: Mapping[str, Listing]) -> Mapping[str, str]:
    """Return the SHA-256 of each file of a directory by path; nothing for a file, or what is not in the store."""
    if path in working:
        return working[path].files
    try:
        return integrity.listing(Path(path)) if Path(path).is_dir() else {}
    except (OSError, ValueError):
        return {}


def _size(path: str, working: Mapping[str, Listing]) -> str:
    return f" ({size_text(working[path].size)})" if path in working else ""
