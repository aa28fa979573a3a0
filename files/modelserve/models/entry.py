"""One entry of models.yml: a model, which is a file or a directory, and where it comes from."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from modelserve.errors import Location, Problem

Place = Literal["operator", "head"]

SOURCES = ("wheel", "url", "path", "hf", "mlflow", "oci")
# Where interrupted downloads lie in Model_ZOO.
PARTIAL = ".fetching"
MANIFEST = "models.yml"

_NAME = r"^[^/]*[^/.][^/]*$"
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGEST = re.compile(r".+@sha256:[0-9a-f]{64}")
# A version of a registered model, a logged model, or an artifact of a run. Aliases and stages move.
_MLFLOW_FIXED = re.compile(r"models:/(?:[^/@]+/\d+|m-[0-9a-f]+)|runs:/[^/]+/.+")
_HOW_TO_PIN = "Run 'scripts/modelserve models --pin {name}', which writes it"


class Model(BaseModel):
    """A model and where it comes from.

    Attributes:
        file: its name in Model_ZOO, where it is a file.
        directory: its name in Model_ZOO, where it is a directory.
        sha256: its :func:`modelserve.hashing.of_model`.
        wheel: a package of the Python package index, with its version.
        url: an http(s) address, or one of a bucket: ``s3://``, ``gs://``, ``az://``.
        path: a file or directory on the disk, relative to the project.
        hf: a repository of models on Hugging Face: ``organisation/name``.
        mlflow: a model or an artifact of MLflow: ``models:/name/3``, ``runs:/<id>/<path>``.
        oci: an artifact in a registry: ``registry.example.org/models/net@sha256:<digest>``.
        revision: with ``hf``: the commit.
        files: with ``hf``: patterns of the files that belong to the model; none: all.
        member: the file or directory inside of what the source has.
        archive: whether ``url`` or ``path`` is a tar or zip archive that holds the model.
        fetch_on: where it is fetched; empty: where ``modelserve_models_fetched_on`` says.
        signature: a file in Model_ZOO: see :mod:`modelserve.models.signatures`.
        public_key: the signer's public key, a file in Model_ZOO.
        certificate: the certificate of the signer's authority, a file in Model_ZOO.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str = Field("", pattern=f"^$|{_NAME}")
    directory: str = Field("", pattern=f"^$|{_NAME}")
    sha256: str = Field("", pattern=r"^([0-9a-f]{64})?$")
    wheel: str = ""
    url: str = Field("", pattern=r"^((https?|s3|gs|az)://.*)?$")
    path: str = ""
    hf: str = Field("", pattern=r"^(([A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]*)?$")
    mlflow: str = Field("", pattern=r"^((models|runs):/.+)?$")
    oci: str = Field("", pattern=r"^([^/@\s]+/[^@\s]+(@sha256:[0-9a-f]{64})?)?$")
    revision: str = ""
    files: tuple[str, ...] = ()
    member: str = ""
    archive: bool = False
    fetch_on: Literal["", "operator", "head"] = ""
    signature: str = ""
    public_key: str = ""
    certificate: str = ""

    @field_validator("file", "directory")
    @classmethod
    def _is_no_name_of_ours(cls, name: str) -> str:
        if name in (PARTIAL, MANIFEST):
            raise ValueError(f"'{name}' has another meaning in Model_ZOO")
        return name

    @field_validator("member")
    @classmethod
    def _stays_inside(cls, member: str) -> str:
        if member.startswith("/") or ".." in PurePosixPath(member).parts:
            raise ValueError(f"'{member}' must be a path inside of what the source has")
        return member

    @model_validator(mode="after")
    def _is_complete(self) -> Model:
        if bool(self.file) == bool(self.directory):
            raise ValueError("needs exactly one of 'file' and 'directory'")
        if sum(bool(getattr(self, source)) for source in SOURCES) != 1:
            raise ValueError("needs exactly one of 'wheel', 'url', 'path', 'hf', 'mlflow' and 'oci'")
        for message in (self._source_problem(), self._signature_problem()):
            if message:
                raise ValueError(message)
        return self

    def _source_problem(self) -> str:
        if self.wheel and not self.member:
            return "'wheel' and 'member' go together"
        if self.member and not (self.wheel or self.mlflow or self.oci or self.archive):
            return "'member' goes with 'wheel', 'mlflow', 'oci' or 'archive: true'"
        if (self.revision or self.files) and not self.hf:
            return "'revision' and 'files' go with 'hf'"
        if self.archive and not (self.url or self.path):
            return "'archive' goes with 'url' or 'path'"
        if self.archive and self.file and not self.member:
            return "a file in an archive needs 'member', its path in there"
        if self.directory and self.url.startswith("http") and not self.archive:
            return "a directory comes from an http(s) address as an archive: add 'archive: true'"
        if self.fetch_on == "head" and self.path and not self.path.startswith("/"):
            return "a 'path' on the head must be absolute: the project is on the operator's machine"
        return ""

    def _signature_problem(self) -> str:
        if sum(map(bool, (self.public_key, self.certificate))) != bool(self.signature):
            return "'signature' goes with exactly one of 'public_key' and 'certificate'"
        for name in (self.signature, self.public_key, self.certificate):
            if name.startswith("/") or ".." in name.split("/"):  # only Model_ZOO is copied to the head
                return f"'{name}' must be a file in Model_ZOO, or below"
        return ""

    @property
    def name(self) -> str:
        """Return the model's name in Model_ZOO, which ``model`` of conf.ini has."""
        return self.file or self.directory

    @property
    def source(self) -> str:
        """Return the key of the source: one of :data:`SOURCES`."""
        return next(source for source in SOURCES if getattr(self, source))

    def fetched_on(self, default: Place) -> Place:
        """Return where the model is fetched.

        Args:
            default: where an entry is fetched that does not say it.
        """
        return self.fetch_on or default

    def unpinned(self, location: Location) -> list[Problem]:
        """Return what lets the source give another model tomorrow.

        Args:
            location: the entry.
        """
        fix = _HOW_TO_PIN.format(name=self.name)
        problems = []
        if not self.sha256:
            problems.append(location.at("sha256").problem("is missing", fix))
        if self.hf and not _COMMIT.fullmatch(self.revision):
            shown = f"'{self.revision}' is a branch or tag, which can move" if self.revision else "is missing"
            problems.append(location.at("revision").problem(f"{shown}; the 40 digits of a commit are needed", fix))
        if self.oci and not _DIGEST.fullmatch(self.oci):
            message = f"'{self.oci}' is a tag, which can move; '@sha256:' and the digest are needed"
            problems.append(location.at("oci").problem(message, fix))
        if self.mlflow and not _MLFLOW_FIXED.fullmatch(self.mlflow):
            message = f"'{self.mlflow}' can move; a version is needed, 'models:/name/3'"
            problems.append(location.at("mlflow").problem(message, fix))
        return problems
