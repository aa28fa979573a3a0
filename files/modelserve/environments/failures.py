"""Explain in one line why uv cannot resolve the requirements of a package."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from modelserve.config import debian_hints
from modelserve.environments import local, uv
from modelserve.environments.inputs import Inputs
from modelserve.environments.requirements import Line
from modelserve.errors import Problem
from modelserve.settings import Settings


def resolution_problem(
    name: str,
    stderr: str,
    pins: Mapping[str, str],
    settings: Settings,
    asked: Inputs | None = None,
    staging: Path | None = None,
) -> Problem:
    """Return why uv cannot resolve the requirements of a package.

    Args:
        name: the package's name.
        stderr: uv's explanation.
        pins: the versions of the packages that are the cluster's.
        settings: name the package index and the proxy before it.
        asked: the requirements.
        staging: the staging directory, whose paths mean nothing to a reader.
    """
    file = asked.listed.shown if asked else f"algopkg/{name}/requirements.txt"
    lines = [line for line in (*asked.lines, *asked.conda_lines) if line in asked.texts] if asked else []
    text = uv.one_line(_readable(stderr, asked, staging) if asked and staging else stderr)
    problem = uv.unreachable(stderr, settings, file) or _invalid(stderr, lines) or _without_git(stderr, lines)
    problem = problem or debian_hints.of_build(stderr, file)
    if problem:
        return problem
    for package, version in pins.items():
        versions = re.findall(rf"\b{package}(?:\[[\w,]*\])?([=<>!~]=?[\w.*]+)", text)
        other = next((version_asked for version_asked in versions if version_asked != f"=={version}"), None)
        if other:
            message = f"asks for {package}{other}, but the cluster runs {package} {version}"
            return Problem(message, f"Remove the line, or write {package}=={version}", file)
    fix = "Change the versions so that they agree"
    if "--index-strategy" in text:
        text = text.partition(" hint: ")[0]
        fix = (
            "uv takes a package from the first index that has it: pin a version of that index, or set "
            "modelserve_uv_index_strategy: unsafe-best-match"
        )
    return Problem(f"cannot be met: {text}", fix, file)


def _invalid(stderr: str, lines: Sequence[Line]) -> Problem | None:
    """Return the first line that is no requirement, where that is uv's reason."""
    if not re.search(r"Couldn't parse|Expected|Unexpected|Unsupported", stderr):
        return None
    for line in lines:
        if line.text.startswith("-") or local.reference(line) is not None:
            continue
        try:
            Requirement(re.split(r"\s--[a-z]", line.text)[0])
        except InvalidRequirement as error:
            reason = str(error).splitlines()[0]
            return line.problem(f"is no requirement, '{line.text}': {reason}", "Write name==version")
    return None


def _without_git(stderr: str, lines: Sequence[Line]) -> Problem | None:
    if not re.search(r"git executable not found", stderr, re.IGNORECASE):
        return None
    fix = "Name git in modelserve_build_packages, or require the archive of a release"
    line = next((line for line in lines if "git+" in line.text), None)
    return line.problem("needs git, which the image does not have", fix) if line else None


def _readable(stderr: str, asked: Inputs, staging: Path) -> str:
    """Return uv's explanation with the paths that the requirements have."""
    for content in asked.locals:
        for path in (content.url, content.path):
            stderr = stderr.replace(path.replace(local.PLACEHOLDER, str(staging)), content.shown)
    return stderr
