"""Everything that an environment is made from, and what uv gets of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelserve.environments import credentials, index_options, local
from modelserve.environments.index_options import IndexOptions
from modelserve.environments.listed import Listed
from modelserve.environments.local import Local
from modelserve.environments.requirements import Line
from modelserve.errors import UserError


@dataclass(frozen=True)
class Inputs:
    """The requirements of a package, read to the end.

    Attributes:
        lines: the lines of its requirement files.
        conda_lines: those of the ``pip`` list of its ``environment.yml``.
        options: the options of package indexes in both.
        install_options: options that only the installation needs.
        texts: what uv gets for each line that is a requirement, by the line.
        locals: files and directories that the requirements name.
        listed: where the lines come from.
    """

    lines: tuple[Line, ...]
    conda_lines: tuple[Line, ...]
    options: IndexOptions
    install_options: IndexOptions
    texts: dict[Line, str]
    locals: tuple[Local, ...]
    listed: Listed

    @property
    def lock_options(self) -> tuple[str, ...]:
        """The options that a lock needs to be installed."""
        return tuple(dict.fromkeys([*self.options.lines, *self.install_options.lines]))

    def facts(self, index_strategy: str) -> list[dict[str, Any]]:
        """Return what takes part beside the lines themselves; nothing where the lines say it all.

        Args:
            index_strategy: which of several indexes uv takes a package from.
        """
        facts: dict[str, Any] = {}
        if self.locals:
            facts["content"] = [[content.shown, content.path] for content in self.locals]
        if self.options.lines or self.options.prerelease:
            facts["options"] = [*self.options.lines, self.options.prerelease, index_strategy]
        if self.listed.indexed:
            facts["indexed"] = [self.listed.indexed, *self.install_options.lines]
        return [facts] if facts else []

    def requirements(self, lines: Iterable[Line], staging: Path, constraint: bool = False) -> list[str]:
        """Return the requirements among lines, as uv gets them.

        Args:
            lines: :attr:`lines` or :attr:`conda_lines`.
            staging: the staging directory.
            constraint: whether those are meant that only limit versions.
        """
        texts = [self.texts[line] for line in lines if line in self.texts and line.constraint == constraint]
        return [staged(text, staging) for text in texts]


def read(listed: Listed, conda_lines: Iterable[Line], package: Path, sha256: Callable[[Path], str]) -> Inputs:
    """Read what requirement lines name: local files, directories, options.

    Args:
        listed: what the package lists.
        conda_lines: those of the ``pip`` list.
        package: the package's directory.
        sha256: returns a file's SHA-256.

    Raises:
        UserError: a line holds a password, or names something that does not exist.
    """
    lines, conda_lines = listed.lines, tuple(conda_lines)
    own = [line for line in (*lines, *conda_lines) if not line.included]
    credentials.refuse((*lines, *conda_lines, *listed.index_lines))
    install_options = index_options.read(listed.index_lines if listed.indexed else (), package.parent, sha256)
    options = index_options.read(filter(index_options.is_option, own), package.parent, sha256)
    references = {line: found for line in own if (found := local.reference(line)) is not None}
    if of_conda := [found for found in references.values() if local.is_of_conda(found)]:
        raise UserError(local.conda_problem(of_conda))
    contents = {line: local.archive_or_tree(found, sha256) for line, found in references.items()}
    texts = {line: local.not_editable(line.text) for line in own if not index_options.is_option(line)}
    texts |= {line: found.text(contents[line]) for line, found in references.items()}
    locals_ = tuple(dict.fromkeys([*contents.values(), *options.locals, *install_options.locals]))
    return Inputs(lines, conda_lines, options, install_options, texts, locals_, listed)


def staged(text: str, staging: Path) -> str:
    """Return a text of a lock with the paths of a staging directory."""
    return text.replace(local.PLACEHOLDER, str(staging))


def unstaged(text: str, staging: Path) -> str:
    """Return a text of uv with the paths that a lock has."""
    return text.replace(str(staging), local.PLACEHOLDER)
