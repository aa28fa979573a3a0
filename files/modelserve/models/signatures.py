"""Verify the signatures that ``Model_ZOO/models.yml`` names, with the library model-signing.

- file: net.onnx
  sha256: ...
  url: https://...
  signature: net.sig            # a file in Model_ZOO, as `model_signing sign` writes it
  public_key: keys/team.pem     # the signer's; or certificate: that of the authority which issued the signer's

A signature has to cover exactly the entries that name it. That of a directory is over the directory, all of its files.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import sys
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from modelserve.errors import Problem, UserError
from modelserve.util.files import write_atomically

if TYPE_CHECKING:
    from modelserve.models.entry import Model

SINGLE_FILE = "."  # the name in a signature of one file, as opposed to a directory


class Verified:
    """A record of the signatures that were verified, with their content: large models are read once.

    Args:
        file: the record.
        sha256: returns a file's SHA-256.
    """

    def __init__(self, file: Path, sha256: Callable[[Path], str]) -> None:
        self._file = file
        self._sha256 = sha256

    def once(self, signed: Signed, verify: Callable[[], None]) -> None:
        """Verify a signature that is not in the record, and add it."""
        identity = signed.identity(self._sha256)
        verified = self._read()
        if identity not in verified:
            verify()
            write_atomically(self._file, json.dumps([*verified, identity][-1000:]))

    def _read(self) -> list[str]:
        try:
            return list(json.loads(self._file.read_text()))
        except (OSError, ValueError):
            return []


@dataclass(frozen=True)
class Signed:
    """A signature, the files it has to cover, and the signer's public key or authority."""

    directory: Path
    signature: str
    files: tuple[str, ...]
    public_key: str
    certificate: str

    @property
    def signer(self) -> str:
        """Return the file of the signer's public key or authority."""
        return self.public_key or self.certificate

    @property
    def model_directory(self) -> Path | None:
        """Return the directory that the signature is over, where the entry is one."""
        directory = self.directory / self.files[0]
        return directory if len(self.files) == 1 and directory.is_dir() else None

    def identity(self, sha256: Callable[[Path], str]) -> str:
        """Return a hash of everything that decides whether the signature is valid."""
        small = [(self.directory / name).read_bytes() for name in (self.signature, self.signer)]
        parts = [hashlib.sha256(content).hexdigest() for content in small]
        files = {name: sha256(self.directory / name) for name in self.files}
        text = json.dumps([parts, bool(self.public_key), files], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def covered(self) -> list[str]:
        """Return the names of the files in the signature, before it is verified."""
        try:
            document = json.loads((self.directory / self.signature).read_bytes())
            predicate = json.loads(base64.b64decode(document["dsseEnvelope"]["payload"]))["predicate"]
            if predicate["serialization"]["method"] != "files":
                raise self.problem("was made over parts of files", "Sign whole files")
            return sorted(resource["name"] for resource in predicate["resources"])
        except (ValueError, KeyError, TypeError):
            raise self.problem("is not a signature of model-signing", "Sign with model-signing 1.0 or later") from None

    def problem(self, message: str, fix: str, file: str = "") -> UserError:
        """Return an error at the entry of ``file``, or at all entries of the signature."""
        name = file or ", ".join(self.files)
        return UserError(Problem(f"{self.signature} {message}", fix, f"{self.directory.name}/models.yml", name))


def require_signed(
    directory: Path, models: Iterable[Model], used: Collection[str] | None = None, before: Verified | None = None
) -> None:
    """Return when every signature is valid, by its signer, and covers exactly its files.

    Args:
        directory: Model_ZOO.
        models: its entries.
        used: verify only signatures of these files; None takes all.
        before: the record of verified signatures.

    Raises:
        UserError: the entries whose signature is missing, by another signer, or of other content.
    """
    problems: list[Problem] = []
    for signed in _grouped(directory, models):
        if used is not None and not set(used) & set(signed.files):
            continue
        try:
            _require_coverage(signed)
            if before is None:
                _verify(signed)
            else:
                before.once(signed, lambda signed=signed: _verify(signed))  # type: ignore[misc]
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(problems)


def _grouped(directory: Path, models: Iterable[Model]) -> Iterator[Signed]:
    groups: dict[tuple[str, str, str], list[str]] = {}
    for model in models:
        if model.signature:
            groups.setdefault((model.signature, model.public_key, model.certificate), []).append(model.name)
    for (signature, public_key, certificate), files in groups.items():
        yield Signed(directory, signature, tuple(files), public_key, certificate)


def _require_coverage(signed: Signed) -> None:
    """Return when all files exist, and the signature names exactly those of the entries."""
    for name in (signed.signature, signed.signer, *signed.files):
        if not (signed.directory / name).exists():
            zoo = signed.directory.name
            raise signed.problem(f"cannot be verified: there is no {zoo}/{name}", f"Put it into {zoo}")
    covered = signed.covered()
    if signed.model_directory:  # the library compares the files
        return
    if covered == [SINGLE_FILE] and len(signed.files) == 1:
        return
    for file in signed.files:
        if file not in covered:
            shown = ", ".join(covered) if covered != [SINGLE_FILE] else "one file alone"
            raise signed.problem(f"does not cover this file, but {shown}", "Sign the file, or name its signature", file)
    if missing := [name for name in covered if name not in signed.files]:
        message = f"covers {', '.join(missing)} too, which no entry with this signature describes"
        raise signed.problem(message, "Describe what was signed, all of it, or sign again")


def _verify(signed: Signed) -> None:
    try:
        from cryptography.exceptions import InvalidSignature
        from model_signing import verifying
        from OpenSSL.crypto import X509StoreContextError
    except ImportError as error:
        fix = "Run 'make venv', or install what requirements.lock has into this Python"
        raise signed.problem(f"cannot be verified: this Python has no {error.name}", fix) from None
    signer = f"{signed.directory.name}/{signed.signer}"
    verifier = verifying.Config()  # type: ignore[no-untyped-call]
    verifier.set_ignore_unsigned_files(not signed.model_directory)  # the other files of Model_ZOO
    model = signed.directory / signed.files[0] if signed.covered() == [SINGLE_FILE] else signed.directory
    model = signed.model_directory or model
    try:
        if signed.public_key:
            verifier.use_elliptic_key_verifier(public_key=signed.directory / signed.public_key)
        else:
            verifier.use_certificate_verifier(certificate_chain=[signed.directory / signed.certificate])
    except Exception as error:  # parsers of many formats, each with its own errors
        raise signed.problem(
            f"cannot be verified: {signer} cannot be used: {_line(error)}", "Name a PEM file"
        ) from None
    try:
        with contextlib.redirect_stdout(sys.stderr):  # the library prints warnings; ours may carry a document
            verifier.verify(model, signed.directory / signed.signature)
    except X509StoreContextError as error:
        message = f"was made by a signer that {signer} does not certify: {_line(error)}"
        raise signed.problem(message, "Name the signer's authority only if you trust it") from None
    except Exception as error:  # the library documents no exceptions, and raises many
        text = _line(error)
        if isinstance(error, InvalidSignature) or text.startswith("Key mismatch"):
            message = f"was not made by {signer}, or was changed since"
            raise signed.problem(message, "Name the signer's key only if you trust it") from None
        if text.startswith("Signature mismatch"):
            raise signed.problem(
                "is of other content than the file has", "Fetch what was signed, or sign what is there"
            ) from None
        raise signed.problem(f"cannot be verified: {text}", "Sign again") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
