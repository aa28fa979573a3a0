"""Verify that a stored model has the content that its name says.

Beside each model of the store lies an integrity stamp: the size, times and inode that the file had when its content was
last hashed. While they are the same, nothing wrote to the file, and no hashing is needed. The stamp of a directory has
them for each file in it, with the file's SHA-256.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelserve import hashing

_STORED = re.compile(r"/model/([0-9a-f]{64})/[^/]+$")
_INODE = 3
_SHOWN_FILES = 5  # in a message

State = list[int]


def file_state(path: Path) -> State:
    """Return what every write to a file changes: size, modification time, change time and inode.

    The kernel sets the change time; no program can set it back.
    """
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def write_stamp(model: Path, content: State | Mapping[str, tuple[State, str]]) -> None:
    """Record that the content of a stored model was hashed and is what its name says.

    Args:
        model: the file or directory.
        content: the :func:`file_state` of a file before it was hashed; for a directory, this and the SHA-256 of each
            file, by path.
    """
    # Without a stamp, on a disk that takes no file, the content is hashed each time.
    with contextlib.suppress(OSError):
        descriptor, name = tempfile.mkstemp(prefix=".seal.", dir=model.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
                os.fchmod(descriptor, 0o644)
                json.dump(content, stream)
            temporary.replace(_stamp(model))
        except BaseException:
            temporary.unlink()
            raise


def verify_integrity(model: Path) -> bool:
    """Return whether a stored model exists and has the content that its directory's name says."""
    try:
        if model.is_dir():
            return hashing.of_listing(listing(model).items()) == model.parent.name
        state = file_state(model)
        if _read_stamp(model) == state:
            return True
        if hashing.of_file(model) != model.parent.name:
            return False
    except (FileNotFoundError, ValueError):
        return False
    write_stamp(model, state)
    return True


def listing(model: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a stored directory, by path; only files that changed are hashed.

    Raises:
        ValueError: as of :func:`hashing.model_files`.
        FileNotFoundError: a file was removed meanwhile.
    """
    stamp = _read_stamp(model)
    before = stamp if isinstance(stamp, dict) else {}
    content: dict[str, tuple[State, str]] = {}
    for name, file in hashing.model_files(model):
        state = file_state(file)
        recorded, sha256 = before.get(name, (None, ""))
        content[name] = (state, sha256 if recorded == state else hashing.of_file(file))
    hashes = {name: sha256 for name, (_, sha256) in content.items()}
    is_new = before != {name: list(recorded) for name, recorded in content.items()}
    if is_new and hashing.of_listing(hashes.items()) == model.parent.name:
        write_stamp(model, content)
    return hashes


def is_stored(path: str) -> bool:
    """Return whether a path is one of a stored model."""
    return _STORED.search(path) is not None


def require_integrity(path: str) -> None:
    """Return when a file or directory is not a stored model, or is the one that was deployed.

    Raises:
        ValueError: the stored model is missing or has another content.
    """
    stored = _STORED.search(path)
    if stored and not verify_integrity(Path(path)):
        raise ValueError(
            f"the stored model {path} is not the one that was deployed: {_difference(Path(path))}, not {stored[1]}. "
            "Nothing was loaded. Deploy again, or, on a worker, restart its container: that fetches it again"
        )


def _difference(model: Path) -> str:
    """Return how a stored model differs from what its name says."""
    if not model.exists():
        return "its sha256 is none: it is missing"
    if not model.is_dir():
        return f"its sha256 is {hashing.of_file(model)}"
    try:
        files = listing(model)
    except (OSError, ValueError) as error:
        return f"it cannot be read: {error}"
    stamp = _read_stamp(model)
    recorded = {name: value[1] for name, value in stamp.items()} if isinstance(stamp, dict) else files
    names = sorted(name for name in files.keys() | recorded.keys() if files.get(name) != recorded.get(name))
    parts = [_kind(name in files, name in recorded) + name for name in names[:_SHOWN_FILES]]
    parts += ["..."] if len(names) > _SHOWN_FILES else []
    return f"{', '.join([*parts, 'its sha256 is'])} {hashing.of_listing(files.items())}"


def _kind(exists: bool, is_recorded: bool) -> str:
    if not exists:
        return "missing "
    return "changed " if is_recorded else "an additional file "


def stored_files(models: Path) -> dict[str, Path]:
    """Return the files of stored models by their SHA-256, those that nothing wrote to since they were hashed.

    Args:
        models: the directory of the stored models.
    """
    files: dict[str, Path] = {}
    for model, stamp in _stamps(models):
        for file, state, sha256 in _recorded(model, stamp):
            with contextlib.suppress(OSError):
                if file_state(file) == state:
                    files[sha256] = file
    return files


@contextmanager
def stamps_kept(models: Path, files: Iterable[Path]) -> Iterator[None]:
    """Keep stamps valid while hard links to files are made or removed, which sets the files' change time.

    Args:
        models: the directory of the stored models.
        files: the files that get or lose a link.
    """
    before: dict[int, State] = {}
    for file in files:
        with contextlib.suppress(OSError):
            state = file_state(file)
            before[state[_INODE]] = state
    try:
        yield
    finally:
        for model, stamp in _stamps(models) if before else ():
            renewed = {
                file: _renewed(file, state)
                for file, state, _ in _recorded(model, stamp)
                if before.get(state[_INODE]) == state
            }
            if any(renewed.values()):
                write_stamp(model, _with_states(model, stamp, renewed))


def _renewed(file: Path, state: State) -> State | None:
    """Return a file's state now; None where more than its change time differs."""
    with contextlib.suppress(OSError):
        now = file_state(file)
        if now != state and (now[:2], now[_INODE]) == (state[:2], state[_INODE]):
            return now
    return None


def _with_states(model: Path, stamp: Any, states: Mapping[Path, State | None]) -> Any:
    if isinstance(stamp, list):
        return states.get(model) or stamp
    return {name: (states.get(model / name) or value[0], value[1]) for name, value in stamp.items()}


def _stamps(models: Path) -> Iterator[tuple[Path, Any]]:
    """Yield each stored model that has a stamp, with it."""
    for file in models.glob("[!.]*/.*.seal"):
        model = file.with_name(file.name[1 : -len(".seal")])
        stamp = _read_stamp(model)
        if stamp is not None:
            yield model, stamp


def _recorded(model: Path, stamp: Any) -> Iterator[tuple[Path, State, str]]:
    """Yield the files of a stamp, with the recorded state and SHA-256 of each."""
    if isinstance(stamp, list):
        yield model, stamp, model.parent.name
    else:
        for name, (state, sha256) in stamp.items():
            yield model / name, state, sha256


def _read_stamp(model: Path) -> Any:
    """Return a model's stamp as :func:`write_stamp` takes it; None where there is no valid one."""
    with contextlib.suppress(OSError, ValueError):
        stamp = json.loads(_stamp(model).read_text())
        if _is_state(stamp):
            return stamp
        if isinstance(stamp, dict) and all(
            isinstance(value, list) and len(value) == 2 and _is_state(value[0]) and isinstance(value[1], str)
            for value in stamp.values()
        ):
            return stamp
    return None


def _is_state(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(isinstance(number, int) for number in value)


def _stamp(model: Path) -> Path:
    # ".seal" is on the disks of running clusters: another name would hash every model again.
    return model.with_name(f".{model.name}.seal")
