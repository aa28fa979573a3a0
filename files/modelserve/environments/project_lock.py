"""Read uv.lock beside pyproject.toml. uv exports it; one without the project's present dependencies is stale."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from modelserve import hashing
from modelserve.environments import project_file, text, uv
from modelserve.environments.project_file import ProjectFile
from modelserve.errors import Problem, UserError
from modelserve.settings import Settings
from modelserve.store.store import Store
from modelserve.util.files import write_atomically

NAME = "uv.lock"
FIX = "Run 'uv lock' in the package's directory"
_SOURCES = ("git", "url", "path", "directory", "editable", "index")


def exported(project: ProjectFile, file: Path, shown: str, settings: Settings, store: Store) -> str:
    """Return the text of a requirement file with what a uv.lock pins, hashes included.

    Args:
        project: the project.
        file: its uv.lock.
        shown: the lock's name in messages.
        settings: the cluster's settings.
        store: what uv exported once is remembered there.

    Raises:
        UserError: the lock is stale, or uv cannot read it.
    """
    content = text.read(file, shown)
    require_current(project, project_file.parsed(content, shown), shown)
    remembered = store.root / "lock" / f"uv-{hashing.of_value([project.content, content])}.txt"
    if not remembered.exists():
        command = ["export", "--quiet", "--frozen", "--no-dev", "--no-default-groups", "--no-emit-project"]
        command += ["--no-header", "--no-annotate", "--format", "requirements.txt", "--no-python-downloads"]
        command += ["--python", sys.executable, "--project", str(file.parent)]
        result = uv.run(command, settings, store)
        if result.returncode != 0:
            raise UserError(Problem(f"cannot be exported: {uv.one_line(result.stderr)}", FIX, shown))
        write_atomically(remembered, result.stdout)
    return remembered.read_text()


def require_current(project: ProjectFile, lock: Mapping[str, Any], shown: str) -> None:
    """Refuse a lock that was made for other dependencies.

    Raises:
        UserError: naming a dependency that differs.
    """
    packages = [package for package in lock.get("package", []) if package.get("name") == project.name]
    if not packages:
        raise UserError(Problem(f"does not have the project '{project.name}' of {project.shown}", FIX, shown))
    locked = set(_locked(packages[0].get("metadata", {}).get("requires-dist", [])))
    if differing := sorted(locked ^ set(_asked(project))):
        name = differing[0][0]
        raise UserError(Problem(f"is older than {project.shown}: it has another '{name}'", FIX, shown))


def _asked(project: ProjectFile) -> Iterator[tuple[str, ...]]:
    for dependency in project.dependencies:
        sources = project.sources.get(canonicalize_name(dependency.name), ())
        if not sources and _holds(dependency.marker):
            yield _entry(dependency, _direct(dependency.url))
        for source in sources:
            marker = source.get("marker")
            if _holds(dependency.marker) and (marker is None or Marker(marker).evaluate()):
                yield _entry(dependency, _place(source, project), has_versions="index" in source)


def _locked(entries: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    for entry in entries:
        marker = entry.get("marker")
        if marker is not None and not Marker(marker).evaluate({"extra": ""}):
            continue
        extras = f"[{','.join(entry['extras'])}]" if entry.get("extras") else ""
        key = next((key for key in _SOURCES if key in entry), "")
        place = str(entry.get(key, "")).partition("#")[0].rstrip("/")
        yield _entry(Requirement(f"{entry['name']}{extras}{entry.get('specifier', '')}"), place)


def _entry(dependency: Requirement, place: str, has_versions: bool = True) -> tuple[str, ...]:
    """Return what is compared. A lock has no versions of what does not come from an index."""
    extras = ",".join(sorted(map(canonicalize_name, dependency.extras)))
    versions = str(dependency.specifier) if has_versions else ""
    return canonicalize_name(dependency.name), extras, versions, place


def _holds(marker: Marker | None) -> bool:
    return marker is None or marker.evaluate({"extra": ""})


def _direct(url: str | None) -> str:
    """Return the place that a lock names for the URL of a dependency."""
    place = (url or "").partition("#")[0]
    if not place.startswith("git+"):
        return place.rstrip("/")
    repository, at, revision = place.removeprefix("git+").rpartition("@")
    return f"{repository}?rev={revision}" if at and "/" not in revision else place.removeprefix("git+")


def _place(source: Mapping[str, Any], project: ProjectFile) -> str:
    """Return the place that a lock names for a source."""
    if "index" in source:
        urls = {index.get("name"): str(index["url"]) for index in project.indexes}
        return urls.get(source["index"], "").rstrip("/")
    if "git" in source:
        query = [f"{key}={source[key]}" for key in ("subdirectory", "rev", "tag", "branch") if key in source]
        return str(source["git"]) + (f"?{'&'.join(query)}" if query else "")
    return str(source.get("url") or Path(str(source.get("path", "")))).rstrip("/")
