"""Fetch a model from the source that its entry names."""

from __future__ import annotations

import os
import shutil
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from modelserve.models.entry import Model
from modelserve.models.sources import archive, buckets, disk, http, huggingface, mlflow, oci, wheel
from modelserve.models.sources.request import Request, human
from modelserve.util.variables import with_variables

PROGRESS_EVERY_S = 10.0
_SOURCES: dict[str, Callable[[Request], Path]] = {
    "wheel": wheel.fetch,
    "path": disk.fetch,
    "hf": huggingface.fetch,
    "mlflow": mlflow.fetch,
    "oci": oci.fetch,
    "http": http.fetch,
    "bucket": buckets.fetch,
}
_PINNED: dict[str, Callable[[Request], dict[str, str]]] = {
    "hf": huggingface.pinned,
    "mlflow": mlflow.pinned,
    "oci": oci.pinned,
}
# Where each source takes its address and credentials from, for the line that reports a failure.
_ADVICE = {
    "http": "Check the source and the network; a login for it stands in ~/.netrc",
    "bucket": "Check the address, the network and the credentials in the environment: AWS_*, GOOGLE_*, AZURE_STORAGE_*",
    "hf": "Check the repository's name and the network; a token for it is in HF_TOKEN, a mirror in HF_ENDPOINT",
    "mlflow": "Check the name and MLFLOW_TRACKING_URI; a login is in MLFLOW_TRACKING_USERNAME and _PASSWORD",
    "oci": "Check the reference and the network; 'docker login' keeps a login for the registry",
}
# What libraries read for the certificates that they trust, instead of the system's.
_CERTIFICATES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE")


def fetch(request: Request) -> Path:
    """Fetch a model into the request's directory.

    Returns:
        The file or the directory that the entry describes.

    Raises:
        Exception: each library raises its own.
    """
    with _system_certificates(), _reported(request):
        fetched = _SOURCES[_kind(request.model)](request)
        if request.model.archive:
            unpacked = request.work / "unpacked"
            shutil.rmtree(unpacked, ignore_errors=True)
            archive.unpack(fetched, unpacked, request.model.member)
            fetched = unpacked
        if request.model.member and request.model.source != "wheel":
            fetched /= request.model.member
    if not fetched.exists():
        raise FileNotFoundError(f"there is no '{request.model.member}' in what the source has")
    if request.model.file and fetched.is_dir():
        raise IsADirectoryError("the source has a directory: write 'directory' in place of 'file', or name a 'member'")
    if request.model.directory and not fetched.is_dir():
        raise NotADirectoryError("the source has a file: write 'file' in place of 'directory'")
    return fetched


def pinned(request: Request) -> dict[str, str]:
    """Return the keys of the entry that name a fixed revision, with their values; none where the hash alone pins it.

    Raises:
        Exception: each library raises its own.
    """
    with _system_certificates():
        resolve = _PINNED.get(request.model.source)
        return resolve(request) if resolve else {}


def advice(model: Model) -> str:
    """Return what to do where a model cannot be fetched."""
    return _ADVICE.get(_kind(model), "Check the source and the network")


def _kind(model: Model) -> str:
    if model.source != "url":
        return model.source
    return "http" if model.url.startswith("http") else "bucket"


@contextmanager
def _reported(request: Request) -> Iterator[None]:
    """Report how much is there, every few seconds, while a model is fetched."""
    done = threading.Event()

    def watch() -> None:
        before = 0
        while not done.wait(PROGRESS_EVERY_S):
            size = _size(request.work)
            rate = max(size - before, 0) / PROGRESS_EVERY_S
            request.report(f"{request.model.name}: {human(size)} so far, {human(rate)} per second")
            before = size

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _size(directory: Path) -> int:
    size = 0
    for parent, _, names in os.walk(directory):
        for name in names:
            try:
                size += Path(parent, name).lstat().st_size
            except OSError:  # it was renamed meanwhile
                continue
    return size


def _system_certificates() -> AbstractContextManager[None]:
    """Have the libraries trust the certificates that this machine trusts, unless the environment names others."""
    bundle = ssl.get_default_verify_paths().cafile
    unset = [name for name in _CERTIFICATES if bundle and name not in os.environ]
    return with_variables(dict.fromkeys(unset, bundle or ""))
