"""Read pyproject.toml in place of requirements.txt: a project's dependencies and where uv's tables get them from."""

from __future__ import annotations

import json
import platform
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import canonicalize_name

from modelserve.environments import text
from modelserve.environments.requirements import Line
from modelserve.errors import Problem, UserError

NAME = "pyproject.toml"


@dataclass(frozen=True)
class ProjectFile:
    """What a pyproject.toml asks for.

    Attributes:
        name: the project's name.
        dependencies: its dependencies, parsed.
        sources: ``tool.uv.sources`` of these dependencies, by their name.
        indexes: ``tool.uv.index``.
        content: the file's text.
        shown: the file's name in messages.
        directory: the file's directory.
    """

    name: str
    dependencies: tuple[Requirement, ...]
    sources: Mapping[str, Sequence[Mapping[str, Any]]]
    indexes: Sequence[Mapping[str, Any]]
    content: str
    shown: str
    directory: Path

    def lines(self) -> list[Line]:
        """Return requirement lines of the dependencies and of the indexes that any of them may come from.

        Raises:
            UserError: a source cannot be used here.
        """
        lines = [self._line(option, index["url"]) for index in self.indexes if (option := _option(index))]
        for dependency in self.dependencies:
            if not self._index_of(dependency):
                lines += self._lines_of(dependency)
        return lines

    def index_lines(self) -> list[Line]:
        """Return option lines of all indexes: what is locked comes from any of them."""
        return [self._line(_option({**index, "explicit": False}), index["url"]) for index in self.indexes]

    def indexed(self) -> str:
        """Return a pyproject.toml of the dependencies that come from one index each; nothing where there are none."""
        dependencies = [dependency for dependency in self.dependencies if self._index_of(dependency)]
        if not dependencies:
            return ""
        texts = json.dumps([str(dependency) for dependency in dependencies])
        sources = [
            f"{json.dumps(dependency.name)} = [{', '.join(map(_inline, self.sources[_name(dependency)]))}]"
            for dependency in dependencies
        ]
        indexes = [f"[[tool.uv.index]]\n{_table(index)}" for index in self.indexes]
        project = f'[project]\nname = "indexed"\nversion = "0"\ndependencies = {texts}\n'
        return "\n".join([project, "[tool.uv.sources]", *sources, *indexes, ""])

    def _index_of(self, dependency: Requirement) -> bool:
        return any("index" in source for source in self.sources.get(_name(dependency), ()))

    def _lines_of(self, dependency: Requirement) -> Iterator[Line]:
        sources = self.sources.get(_name(dependency), ())
        if not sources:
            yield self._line("", str(dependency), dependency.name)
        for source in sources:
            markers = [f"({marker})" for marker in (dependency.marker, source.get("marker")) if marker]
            extras = f"[{','.join(sorted(dependency.extras))}]" if dependency.extras else ""
            after = f" ; {' and '.join(markers)}" if markers else ""
            yield self._line(
                "", f"{dependency.name}{extras} @ {self._target(dependency, source)}{after}", dependency.name
            )

    def _target(self, dependency: Requirement, source: Mapping[str, Any]) -> str:
        if "path" in source:
            path = str(source["path"])
            return path if path.startswith(("/", ".")) else f"./{path}"
        fragment = f"#subdirectory={source['subdirectory']}" if "subdirectory" in source else ""
        if "git" in source:
            revision = next((source[key] for key in ("rev", "tag", "branch") if key in source), "")
            return f"git+{source['git']}{f'@{revision}' if revision else ''}{fragment}"
        if "url" in source:
            return f"{source['url']}{fragment}"
        fix = "Write path, git, url or index"
        raise UserError(Problem(f"has a source of {dependency.name} that is not known here", fix, self.shown))

    def _line(self, option: str, value: str, needle: str = "") -> Line:
        lines = enumerate(self.content.splitlines(), 1)
        number = next((number for number, line in lines if (needle or value) in line), 1)
        return Line(f"{option} {value}".strip(), self.directory, self.shown, number)


def read(file: Path, shown: str) -> ProjectFile | None:
    """Read a pyproject.toml.

    Args:
        file: the file.
        shown: its name in messages.

    Returns:
        What it asks for; None for a missing file and one that describes no project.

    Raises:
        UserError: it is not valid, or asks for another Python than the cluster's.
    """
    if not file.is_file():
        return None
    content = text.read(file, shown)
    document = parsed(content, shown)
    project = document.get("project")
    if not isinstance(project, dict):
        return None
    if "dependencies" in project.get("dynamic", []):
        fix = "List them in [project], or write them to a requirements.txt"
        raise UserError(Problem("has dynamic dependencies, which only its build knows", fix, shown))
    _require_python(str(project.get("requires-python", "")), shown)
    dependencies = tuple(_requirement(entry, shown) for entry in project.get("dependencies", []))
    uv = document.get("tool", {}).get("uv", {})
    sources: dict[str, list[Any]] = {
        canonicalize_name(name): source if isinstance(source, list) else [source]
        for name, source in uv.get("sources", {}).items()
    }
    name = canonicalize_name(str(project.get("name", "")))
    return ProjectFile(name, dependencies, sources, uv.get("index", []), content, shown, file.parent)


def parsed(content: str, shown: str) -> dict[str, Any]:
    """Return a TOML document.

    Raises:
        UserError: it is not valid.
    """
    try:
        return tomllib.loads(content)
    except tomllib.TOMLDecodeError as error:
        raise UserError(Problem(f"is not valid TOML: {error}", "Correct it", shown)) from None


def _requirement(entry: object, shown: str) -> Requirement:
    try:
        return Requirement(str(entry))
    except InvalidRequirement as error:
        reason = str(error).splitlines()[0]
        raise UserError(Problem(f"'{entry}' is no requirement: {reason}", "Write name==version", shown)) from None


def _require_python(asked: str, shown: str) -> None:
    running = platform.python_version()
    try:
        matches = SpecifierSet(asked).contains(running, prereleases=True)
    except InvalidSpecifier:
        raise UserError(Problem(f"requires-python = '{asked}' is not valid", "Write >=3.11", shown)) from None
    if not matches:
        message = f"asks for Python {asked}, but the cluster runs Python {running}"
        fix = "Change requires-python; the whole cluster's Python is modelserve_base_release or modelserve_python"
        raise UserError(Problem(message, fix, shown))


def _option(index: Mapping[str, Any]) -> str:
    """Return the option of an index that any package may come from; nothing for one that packages are named for."""
    if index.get("explicit"):
        return ""
    if index.get("format") == "flat":
        return "--find-links"
    return "--index-url" if index.get("default") else "--extra-index-url"


def _name(dependency: Requirement) -> str:
    return canonicalize_name(dependency.name)


def _inline(table: Mapping[str, Any]) -> str:
    return "{ " + ", ".join(f"{key} = {json.dumps(value)}" for key, value in table.items()) + " }"


def _table(table: Mapping[str, Any]) -> str:
    return "\n".join(f"{key} = {json.dumps(value)}" for key, value in table.items())
