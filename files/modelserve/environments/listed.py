"""Find what a package lists: requirements.txt, else pyproject.toml, as its uv.lock pins it where there is one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modelserve.environments import project_file, project_lock, requirements
from modelserve.environments.requirements import Line
from modelserve.settings import Settings
from modelserve.store.store import Store

REQUIREMENTS = "requirements.txt"


@dataclass(frozen=True)
class Listed:
    """What a package lists.

    Attributes:
        lines: requirement lines.
        indexed: a pyproject.toml of the dependencies that come from one index each; empty where there are none.
        index_lines: options of the indexes that these come from.
        is_locked: whether every package has one version already.
        shown: the file's name in messages.
        note: what a user should know about other files.
    """

    lines: tuple[Line, ...] = ()
    indexed: str = ""
    index_lines: tuple[Line, ...] = ()
    is_locked: bool = False
    shown: str = ""
    note: str = ""


def read(package: Path, shown: str, settings: Settings, store: Store) -> Listed:
    """Return what a package lists.

    Args:
        package: its directory.
        shown: the directory's name in messages.
        settings: the cluster's settings.
        store: the cluster's store.

    Raises:
        UserError: a file cannot be used, or uv.lock is older than pyproject.toml.
    """
    requirement_file = package / REQUIREMENTS
    name = f"{shown}/{project_file.NAME}"
    if requirement_file.exists():
        note = f"from {REQUIREMENTS}; {project_file.NAME} beside it does not count"
        lines = requirements.read(requirement_file, f"{shown}/{REQUIREMENTS}")
        return Listed(
            tuple(lines), shown=f"{shown}/{REQUIREMENTS}", note=note if (package / project_file.NAME).exists() else ""
        )
    project = project_file.read(package / project_file.NAME, name)
    if project is None:
        return Listed(shown=f"{shown}/{REQUIREMENTS}")
    lock = package / project_lock.NAME
    if not lock.is_file():
        return Listed(tuple(project.lines()), project.indexed(), tuple(project.index_lines()), shown=name)
    lock_name = f"{shown}/{project_lock.NAME}"
    exported = project_lock.exported(project, lock, lock_name, settings, store)
    lines = requirements.of_text(exported, package, lock_name)
    if lines:
        lines += project.index_lines()
    return Listed(tuple(lines), is_locked=True, shown=lock_name)
